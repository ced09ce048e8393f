"""Every key of the records that verbs write is explained in docs/prunus-json.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import prunus

PAGE = Path(__file__).parents[2] / "docs" / "prunus-json.md"
SMALL: dict[str, Any] = {"model": "lenet-300-100", "data": "digits", "batch": 256, "epochs": 1}


def keys(record: Mapping[str, Any], parts: tuple[str, ...]) -> Iterator[str]:
    """Those of the record, and of the first object of each of its lists ``parts``."""
    yield from record
    for part in parts:
        yield from record[part][0]


def unexplained(record: Mapping[str, Any], *parts: str) -> set[str]:
    explained = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    return set(keys(record, parts)) - explained


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    from transformers import AutoModelForCausalLM

    from tiny import config_of

    place = tmp_path_factory.mktemp("records") / "llama"
    AutoModelForCausalLM.from_config(config_of("llama")).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_prune(llama: Path, tmp_path: Path) -> None:
    prunus.prune(llama, tmp_path / "out", method="wanda", sparsity=0.5, samples=4, seqlen=16, eval_windows=2)
    assert not unexplained(json.loads((tmp_path / "out" / "prunus.json").read_text()), "sites")


def test_threshold(llama: Path, tmp_path: Path) -> None:
    prunus.threshold(llama, tmp_path / "thresholds.json", sparsity=0.5, samples=4, seqlen=16, eval_windows=2)
    record = json.loads((tmp_path / "thresholds.json").read_text())
    assert not unexplained(record, "inputs")
    assert not unexplained(record["held_out"])


def test_pack_and_bench(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prunus.pack(llama, tmp_path / "packed", values="int8")
    assert not unexplained(json.loads((tmp_path / "packed" / "prunus.json").read_text()), "layers")
    monkeypatch.setattr("prunus.verbs.bench.memory_of", lambda run: None)
    record = prunus.bench(tmp_path / "packed", ways=["float32"], prompt_tokens=4, new_tokens=2, repeats=1).record
    assert not unexplained(record, "ways")


def test_compare(llama: Path) -> None:
    settings = {"seqlen": 16, "windows": 6, "new_tokens": 2, "prompt_tokens": 4, "repeats": 1}
    record = prunus.compare(llama, llama, **settings, watts=10).record
    assert not unexplained(record, "models")
    assert not {*unexplained(record["models"][1]["perplexity"]), *unexplained(record["models"][1]["costs"])}


def test_train(tmp_path: Path) -> None:
    runs = [{"name": "dense"}, {"name": "pruned", "from": "dense", "epochs": 0, "prune": {"method": "magnitude"}}]
    record = prunus.train_runs(tmp_path / "out", **SMALL, runs=runs, latency=2).record
    assert not unexplained(record, "rows", "results")
    assert not unexplained(record["results"][0], "history")


def test_lottery(tmp_path: Path) -> None:
    record = prunus.lottery(tmp_path / "out", **SMALL, levels=1, rate=0.5, stability=True).record
    assert not unexplained(record, "rows", "results")
    assert not unexplained(record["results"][-1], "history")
