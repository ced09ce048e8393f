"""Engines beside prunus's own ways: run in turns where they are installed, left out or refused where they are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import prunus
from prunus.core.errors import RecipeError, ResourceError, UnsupportedModelError
from prunus.exports import engines
from prunus.exports.llama_cpp import FOLDER

QUICK = {"prompt_tokens": 12, "new_tokens": 4, "repeats": 2}


@pytest.fixture(autouse=True)
def _memory_is_measured_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process for each way, in the tests of packed models; here it would take most of the time."""
    monkeypatch.setattr("prunus.verbs.bench.memory_of", lambda _: None)


@pytest.fixture
def llama_bench(tmp_path, monkeypatch) -> Path:
    """A stand-in for llama.cpp's program on the PATH; what it was asked stands in the file given back."""
    program, asked = tmp_path / "bin" / "llama-bench", tmp_path / "asked"
    program.parent.mkdir()
    answer = json.dumps([{"n_prompt": 12, "n_gen": 0, "avg_ts": 240.0}, {"n_prompt": 0, "n_gen": 3, "avg_ts": 50.0}])
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\nassert pathlib.Path(sys.argv[2]).read_bytes()[:4] == b'GGUF'\n"
        f"with open({str(asked)!r}, 'a') as file: print(*sys.argv[3:], file=file)\nprint({answer!r})\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv(FOLDER, raising=False)
    return asked


def test_llama_bench_takes_its_turns(llama_bench, checkpoint) -> None:
    found = prunus.bench(checkpoint("qwen3"), ways=["llama.cpp q8_0", "float32"], threads=1, **QUICK)
    ways = {way.name: way for way in found.ways}
    assert list(ways) == ["as loaded", "float32", "llama.cpp q8_0"]
    assert ways["llama.cpp q8_0"].prefill_tokens_per_second.median == pytest.approx(240)
    assert ways["llama.cpp q8_0"].decode_tokens_per_second.median == pytest.approx(50)
    assert ways["llama.cpp q8_0"].weight_bytes == pytest.approx(ways["float32"].weight_bytes * 34 / 128)
    assert llama_bench.read_text().splitlines() == ["-p 12 -n 3 -t 1 -ngl 0 -r 1 -o json"] * 4  # each sitting warms up
    assert found.left_out == []


def test_a_program_that_fails_is_told(llama_bench, checkpoint, tmp_path) -> None:
    (tmp_path / "bin" / "llama-bench").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('error: no such model')\n")
    with pytest.raises(ResourceError, match=r"llama.cpp ended on the way \(error: no such model\)"):
        prunus.bench(checkpoint("qwen3"), ways=["llama.cpp"], **QUICK)


def test_what_is_not_installed_is_left_out_or_refused_by_name(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr("prunus.exports.onnx.find_spec", lambda _: None)
    with pytest.raises(RecipeError) as caught:
        prunus.bench(checkpoint("qwen3"), ways=["llama.cpp", "onnxruntime", "onxruntime"], **QUICK)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "there is no way 'onxruntime' (did you mean 'onnxruntime'?)",
        "the way 'onnxruntime' cannot be run",
        "the way 'llama.cpp' cannot be run",
    ]
    found = prunus.bench(checkpoint("qwen3"), **QUICK)
    assert not {way.name for way in found.ways} & engines.ENGINES.keys()
    assert [line.partition(" left out: ")[0] for line in found.left_out] == [
        "onnxruntime and onnxruntime int8", "llama.cpp and llama.cpp q8_0",
    ]  # fmt: skip
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(RecipeError, match="no node-llama-cpp is installed there"):
        prunus.bench(checkpoint("qwen3"), ways=["llama.cpp"], **QUICK)


def test_several_prompts_and_unknown_models(llama_bench, checkpoint, monkeypatch) -> None:
    monkeypatch.setattr("prunus.exports.onnx.find_spec", lambda _: None)
    with pytest.raises(RecipeError, match="the way 'llama.cpp' cannot be run: it takes one prompt at a time, not 2"):
        prunus.bench(checkpoint("qwen3"), ways=["llama.cpp"], batch=2, **QUICK)
    assert any(
        "it takes one prompt at a time, not 2" in line
        for line in prunus.bench(checkpoint("qwen3"), batch=2, **QUICK).left_out
    )
    with pytest.raises(UnsupportedModelError, match="model type 'gpt2'"):
        prunus.bench(checkpoint("gpt2"), ways=["llama.cpp"], **QUICK)
    assert any("model type 'gpt2'" in line for line in prunus.bench(checkpoint("gpt2"), **QUICK).left_out)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_runtime_takes_its_turns(batch: int, checkpoint) -> None:
    pytest.importorskip("onnxruntime")
    found = prunus.bench(checkpoint("llama"), ways=["onnxruntime", "onnxruntime int8"], batch=batch, **QUICK)
    fp32, int8 = found.ways[1:]
    assert fp32.weight_bytes == found.ways[0].weight_bytes
    assert int8.weight_bytes == fp32.weight_bytes // 4
    assert fp32.decode_tokens_per_second.median > 0
