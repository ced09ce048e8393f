"""Block matching: what it says of a block's error is what running the model gives; zeros stay; streamed is in-memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import prunus
from prunus.core.errors import NumericalError
from prunus.core.matmul import FastLinears, linear
from prunus.core.roles import BlockRuns
from prunus.observe.windows import random_windows
from prunus.recipe import Recipe
from prunus.stream.sources import MemorySource
from prunus.stream.streams import Streams
from prunus.stream.trunk import Limits
from prunus.verbs.prepare import calibration_windows
from tiny import VOCABULARY, model_of


def hidden_states(model: torch.nn.Module, windows: torch.Tensor) -> list[torch.Tensor]:
    """What comes out of every block ``[windows seqlen width]``, caught by plain hooks."""
    caught: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, k=k: caught[k].append(out[0] if isinstance(out, tuple) else out))
        for k, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(found) for found in caught]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_error_told_of_a_block_is_that_of_running_both_models(family, tokenizer, quick) -> None:
    """Every block: mean over tokens of the squared distance to the dense model's hidden states, relative to their own."""
    dense, pruned, unmatched = model_of(family), model_of(family), model_of(family)
    settings = {**quick, "seqlen": 64, "samples": 15, "method": "wanda", "sparsity": 0.5}  # the last batch is short
    result = prunus.prune(pruned, tokenizer=tokenizer, stage=["match:epochs=3,batch_tokens=256"], **settings)
    prunus.prune(unmatched, tokenizer=tokenizer, **settings)
    windows = calibration_windows(MemorySource(dense, torch.device("cpu")), tokenizer, Recipe.of(settings))
    wanted, found, before = (hidden_states(model, windows) for model in (dense, pruned, unmatched))
    told = {site["block"]: site for site in result.sites}
    for block, (target, output, other) in enumerate(zip(wanted, found, before, strict=True)):
        energy = target.square().sum(-1)
        error = float(((target - output).square().sum(-1) / energy).mean())
        assert told[block]["rel_error"] == pytest.approx(error, rel=2e-4)
        assert told[block]["error_of"] == "block"
        assert error < 0.95 * float(((target - other).square().sum(-1) / energy).mean())
    for site in result.sites:
        assert site["sparsity"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_pruned_is_left_alone_and_all_pruned_stays_zero(sparsity, tokenizer, quick) -> None:
    model, dense = model_of("llama"), model_of("llama")
    result = prunus.prune(model, tokenizer=tokenizer, method="best", sparsity=sparsity, **quick)
    for site in result.sites:
        one, other = (held.get_parameter(f"{site['name']}.weight") for held in (model, dense))
        assert torch.equal(one, other) if sparsity == 0 else not one.any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma4"])
@pytest.mark.parametrize("sparsity", ["0.6", "2:4"])
def test_streamed_is_in_memory_and_zeros_stay(family, sparsity, checkpoint, tokenizer, quick, tmp_path) -> None:
    settings = {**quick, "method": "wanda", "solver": "admm", "sparsity": sparsity, "stage": ["match:batch_tokens=128"]}
    prunus.prune(checkpoint(family), tmp_path / "out", **settings)
    model, untuned = model_of(family), model_of(family)
    prunus.prune(model, tokenizer=tokenizer, **settings)
    streamed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name
    first = MemorySource(model, torch.device("cpu")).found[0].sites
    prunus.prune(untuned, tokenizer=tokenizer, **{**settings, "stage": ["none"]})
    for site in first:  # the first block's masks cannot depend on tuning
        one, two = model.get_parameter(site.parameter), untuned.get_parameter(site.parameter)
        assert torch.equal(one == 0, two == 0)
        assert not torch.equal(one, two)


def test_spilled_states_of_both_streams_change_nothing(tokenizer, quick, tmp_path) -> None:
    model = model_of("llama")
    source = MemorySource(model, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    kept, spilled = (Streams(source, windows, Limits(128, budget), tmp_path, True) for budget in (1 << 30, 1))
    for streams in (kept, spilled):
        streams.start(0)
    assert spilled.pruned.state.spilled
    assert spilled.dense is not None
    assert spilled.dense.state.spilled
    assert not kept.pruned.state.spilled
    for trunk, other in ((kept.pruned, spilled.pruned), (kept.dense, spilled.dense)):
        trunk.advance(source.load(0), 0)
        other.advance(source.load(0), 0)
    everything = slice(0, len(windows))
    for one, two in ((kept.pruned, spilled.pruned), (kept.dense, spilled.dense)):
        assert torch.equal(one.state.read(everything, source.device), two.state.read(everything, source.device))
    spilled.close()
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    ("sparsity", "lr", "grid"), [(0.0, 0.002, None), (0.5, 3.0, None), (0.5, 3.0, "int:bits=8,group=16")]
)
def test_what_matching_cannot_better_is_left_as_it_was(sparsity, lr, grid, tokenizer, quick) -> None:
    """Nothing is lost yet, or every step goes much too far."""
    model, other = model_of("llama"), model_of("llama")
    settings = {**quick, "method": "magnitude", "sparsity": sparsity, "grid": grid}
    result = prunus.prune(model, tokenizer=tokenizer, stage=[f"match:lr={lr}"], **settings)
    prunus.prune(other, tokenizer=tokenizer, **settings)
    assert all(any("left its block as it was" in note for note in site["notes"]) for site in result.sites)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_gradients_of_half_precision_do_not_vanish(tokenizer, quick) -> None:
    """Of hidden states as large as these the plain loss's gradient is below float16's smallest number."""
    model = model_of("llama")
    model.model.embed_tokens.weight.data *= 1000
    settings = {**quick, "seqlen": 64, "samples": 16, "method": "wanda", "sparsity": 0.5}
    result = prunus.prune(model.half(), tokenizer=tokenizer, stage=["match:epochs=3,batch_tokens=1024"], **settings)
    for site in result.sites:
        assert not site["notes"]
        assert site["block_error"]["after"] < 0.98 * site["block_error"]["before"]


def test_a_block_that_overflows_once_pruned_is_no_matter_of_the_rate(tokenizer, quick, monkeypatch) -> None:
    monkeypatch.setattr(BlockRuns, "error", lambda runs: float("inf"))
    with pytest.raises(NumericalError, match="its block overflows once it is pruned"):
        prunus.prune(model_of("llama"), tokenizer=tokenizer, stage=["match"], **{**quick, "method": "wanda"})


def test_fast_linears_have_the_gradients_of_ordinary_ones() -> None:
    inputs = torch.randn(4, 96, 64)
    weight, bias = torch.randn(80, 64), torch.randn(80)
    grads = []
    for function in (functional.linear, linear, within_fast_linears):
        leaves = [tensor.clone().requires_grad_(True) for tensor in (inputs, weight, bias)]
        function(*leaves).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for fast in grads[1:]:
        for one, two in zip(fast, grads[0], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-2)


def within_fast_linears(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    with FastLinears():
        return functional.linear(inputs, weight, bias)


def test_an_encoder_and_its_decoder_are_matched(tmp_path) -> None:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    windows = tmp_path / "windows.npy"
    np.save(windows, random_windows(torch.randint(2, VOCABULARY, (4096,)), 16, 32, 0, "random").numpy())
    settings = {"calibration": str(windows), "samples": 16, "seqlen": 32, "method": "wanda"}
    result = prunus.prune(model, stage=["match:batch_tokens=128"], **settings)
    assert {site["block"] for site in result.sites} == set(range(4))
    assert all(site["block_error"]["after"] < site["block_error"]["before"] for site in result.sites)
    assert not any(site["notes"] for site in result.sites)
