"""Gradients taken block by block are those of the whole model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import prunus
from prunus.core.errors import NumericalError, UnsupportedModelError
from prunus.core.progress import Silent
from prunus.core.stats import Needs
from prunus.recipe import Recipe
from prunus.stream.gradients import Gradients
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Limits
from prunus.verbs.prepare import calibration_windows
from tiny import model_of


def losses(model: torch.nn.Module, windows: torch.Tensor) -> list[torch.Tensor]:
    """Token losses summed, a window each."""
    found = []
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
        found.append(functional.cross_entropy(logits, window[1:], reduction="sum"))
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2"])
def test_block_by_block_is_the_whole_model(family, tokenizer, quick) -> None:
    model, whole = model_of(family), model_of(family)
    source = MemorySource(model, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of({**quick, "samples": 6, "seqlen": 32}))
    sites = [site for found in source.found for site in found.sites]
    gradients = Gradients(source, sites, windows, Needs.GRAD | Needs.GRAD_SQ, Limits(64, 1), Silent())
    parameters = [whole.get_parameter(site.parameter).requires_grad_(True) for site in sites]
    apart = [torch.autograd.grad(loss, parameters) for loss in losses(whole, windows)]
    for place, site in enumerate(sites):
        each = [site.layout.to_matrix(grads[place]) for grads in apart]
        scale = float(sum(each).abs().max())
        torch.testing.assert_close(gradients.of(site)["grad"], sum(each), rtol=1e-3, atol=1e-4 * scale)
        squares = sum(grad.square() for grad in each)
        torch.testing.assert_close(gradients.of(site)["grad_sq"], squares, rtol=1e-2, atol=1e-4 * float(squares.max()))


@pytest.mark.parametrize("order", ["taylor", "fisher"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_models_are_pruned_by_gradients(order, allocation, checkpoint, tokenizer, quick, tmp_path) -> None:
    settings = {**quick, "method": "magnitude", "criterion": f"gradient:order={order}", "allocation": allocation}
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", **settings)
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)
    streamed = load_file(tmp_path / "out" / "model.safetensors")
    model, plainly = model_of("llama"), model_of("llama")
    prunus.prune(model, tokenizer=tokenizer, **settings)
    source = MemorySource(plainly, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(settings))
    names = [site.parameter for found in source.found for site in found.sites]
    weights = [plainly.get_parameter(name).requires_grad_(True) for name in names]
    apart = [torch.autograd.grad(loss, weights) for loss in losses(plainly, windows)]
    scores = []
    for weight, *grads in zip(weights, *apart, strict=True):
        scores.append(
            (weight * sum(grads)).abs() if order == "taylor" else weight.square() * sum(g.square() for g in grads)
        )
    middle = torch.cat([score.flatten() for score in scores]).median()
    for name, score in zip(names, scores, strict=True):
        pruned = model.get_parameter(name)
        assert torch.equal(pruned, streamed[name])
        threshold = middle if allocation == "global" else score.median()
        assert ((pruned == 0) == (score < threshold)).float().mean() > 0.99


def test_gradients_that_overflow_are_an_error(tokenizer, quick) -> None:
    """A layer whose scores are NaN would be dropped whole without a word."""
    model = model_of("llama")
    model.lm_head.weight.data *= 1e25  # logits are finite, squares of gradients are not
    with pytest.raises(NumericalError, match="gradient of the loss, or its square, overflows"):
        prunus.prune(model, tokenizer=tokenizer, **{**quick, "method": "magnitude", "criterion": "gradient:order=fisher"})


def test_blocks_that_share_more_than_hidden_states_are_refused(tokenizer, quick) -> None:
    with pytest.raises(UnsupportedModelError, match="gradients are taken block by block"):
        prunus.prune(model_of("gemma4"), tokenizer=tokenizer, method="magnitude", criterion="gradient", **quick)
