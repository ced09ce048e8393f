"""Export to ONNX and by torch.export: what runs there is the model, with a cache, in batches, with padding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prunus
from prunus.core.errors import ProofError, RecipeError, UnsupportedModelError
from tiny import VOCABULARY

pytest.importorskip("onnxruntime")

FAMILIES = ["mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "opt", "gpt2", "gpt_neox", "falcon", "bloom", "mpt",
            "gptj", "stablelm", "olmo2", "cohere", "glm4", "mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"]  # fmt: skip
BATCH, LENGTH = 3, 9


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory) -> Path:
    """A tiny Llama in both formats."""
    folder = tmp_path_factory.mktemp("written")
    for to in ("onnx", "torch-export"):
        told = prunus.export(checkpoint("llama"), folder / to, to=to)
        assert 0 < told.checks[0].largest <= 1e-5 * told.checks[0].scale
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32).eval()


def padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids of three texts of other lengths, padded on the left, their mask and positions."""
    ids = torch.randint(2, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :2], mask[2, :5] = 0, 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)


@torch.no_grad()
def test_onnx_runtime_decodes_a_padded_batch_with_its_cache(written: Path, model) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(written / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    ids, mask, positions = padded()
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    assert inputs["input_ids"] == inputs["position_ids"] == ["batch_size", "sequence_length"]
    assert inputs["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert inputs["past_key_values.2.value"] == ["batch_size", 2, "past_sequence_length", 8]
    names = [entry.name for entry in session.get_outputs()]
    assert names[:3] == ["logits", "present.0.key", "present.0.value"]
    past = {name: np.zeros((BATCH, 2, 0, 8), np.float32) for name in inputs if name.startswith("past")}
    wanted = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for first, last in ((0, 4), (4, 5), (5, LENGTH)):
        step = {"input_ids": ids[:, first:last], "attention_mask": mask[:, :last], "position_ids": positions[:, first:last]}
        logits, *kept = session.run(names, {**{name: part.numpy() for name, part in step.items()}, **past})
        past = dict(zip(past, kept, strict=True))
        real = mask[:, first:last].bool()
        torch.testing.assert_close(torch.from_numpy(logits)[real], wanted[:, first:last][real], rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_program_of_torch_export_runs_at_other_lengths_and_batches(written: Path, model) -> None:
    program = torch.export.load(written / "torch-export" / "model.pt2").module()
    ids, mask, _ = padded()
    for part, hidden in (
        (ids, mask),
        (ids[:1], torch.ones_like(ids[:1])),
        (ids[:2, :1], torch.ones(2, 1, dtype=torch.int64)),
    ):
        found, wanted = program(part, hidden), model(input_ids=part, attention_mask=hidden).logits
        torch.testing.assert_close(found[hidden.bool()], wanted[hidden.bool()], rtol=0, atol=1e-4)


def test_config_and_tokenizer_stand_beside_it_and_no_path_of_this_machine_in_it(written: Path) -> None:
    for to, file in (("onnx", "model.onnx"), ("torch-export", "model.pt2")):
        assert json.loads((written / to / "config.json").read_text())["model_type"] == "llama"
        assert AutoTokenizer.from_pretrained(written / to)("The economy")["input_ids"]
        assert json.loads((written / to / "prunus.json").read_text())["to"] == to
        assert (written / to / file).is_file()
    assert b"site-packages" not in (written / "onnx" / "model.onnx").read_bytes()


def test_what_cannot_be_said_is_refused(checkpoint, tmp_path, monkeypatch) -> None:
    for to in ("onnx", "torch-export"):
        with pytest.raises(RecipeError, match=f"{to} is written in float32 alone, not in --dtype q8_0"):
            prunus.export(checkpoint("llama"), tmp_path / "out", to=to, dtype="q8_0")
    with pytest.raises(UnsupportedModelError, match="Mamba2ForCausalLM: it keeps other things than keys and values"):
        prunus.export(checkpoint("mamba2"), tmp_path / "out", to="onnx")
    monkeypatch.setattr("prunus.exports.onnx.find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(RecipeError, match=r"ONNX needs onnxruntime, which is not installed: pip install 'prunus\[onnx\]'"):
        prunus.export(checkpoint("llama"), tmp_path / "out", to="onnx")
    assert not list(tmp_path.iterdir())


def test_a_program_that_is_not_the_model_is_never_given_its_name(checkpoint, tmp_path, monkeypatch) -> None:
    load = torch.export.load

    class Other:
        def __init__(self, program) -> None:
            self.program = program

        def module(self):
            return lambda ids, mask: self.program.module()(ids, mask) * 1.01

    monkeypatch.setattr("torch.export.load", lambda path: Other(load(path)))
    with pytest.raises(ProofError, match=r"torch.export.load computes other logits than the model"):
        prunus.export(checkpoint("llama"), tmp_path / "out", to="torch-export")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_weights_that_are_too_many_for_one_file_have_another(checkpoint, tmp_path, monkeypatch) -> None:
    from prunus.exports import onnx as exporter

    monkeypatch.setattr(exporter, "_INLINE", 0)
    told = prunus.export(checkpoint("mistral"), tmp_path / "out", to="onnx")
    model, data = tmp_path / "out" / "model.onnx", tmp_path / "out" / "model.onnx.data"
    assert told.packed_bytes == model.stat().st_size + data.stat().st_size
    small = exporter.quantised(model, tmp_path / "small.onnx")
    assert exporter.product_bytes(small) == exporter.product_bytes(model) // 4
    assert exporter.Session(small)(torch.tensor([[3, 4, 5]])).shape == (1, 3, VOCABULARY)


@pytest.mark.slow
def test_what_torch_export_cannot_follow_is_refused(checkpoint, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="MptForCausalLM: torch.export cannot follow it"):
        prunus.export(checkpoint("mpt"), tmp_path / "out", to="torch-export")
    with pytest.raises(UnsupportedModelError, match="has a step that ONNX"):
        prunus.export(checkpoint("falcon_alibi"), tmp_path / "out", to="onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "to"),
    [(family, to) for family in FAMILIES for to in ("onnx", "torch-export") if (family, to) != ("mpt", "torch-export")],
)
def test_families(family: str, to: str, checkpoint, tmp_path) -> None:
    (check,) = prunus.export(checkpoint(family), tmp_path / "out", to=to).checks
    assert check.largest <= 2e-5 * check.scale


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_the_real_model(to: str, smollm, tmp_path) -> None:
    (check,) = prunus.export(smollm, tmp_path / "out", to=to).checks
    assert check.agreement == 1
    assert check.kl < 1e-6
