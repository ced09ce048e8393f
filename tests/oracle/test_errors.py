"""The error predicted from the Gram is the error measured by running the layer, for every kind of Site."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import prunus
from tiny import model_of


def inputs_of_first_block(model: nn.Module, windows: Tensor) -> dict[str, Tensor]:
    """Inputs ``[tokens cols]`` of every linear map of the dense first block, and of every expert, caught by plain hooks."""
    caught: dict[str, list[Tensor]] = {}
    handles = []

    def keep(name: str):
        return lambda _module, args: caught.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1]))

    def keep_experts(name: str):
        def hook(module, args) -> None:
            hidden, index = args[0], args[1]
            for expert in range(len(module.down_proj)):
                tokens = hidden[(index == expert).any(-1)]
                gate, up = (tokens @ module.gate_up_proj[expert].T).chunk(2, -1)
                caught.setdefault(f"{name}.gate_up_proj.{expert}", []).append(tokens)
                caught.setdefault(f"{name}.down_proj.{expert}", []).append(module.act_fn(gate) * up)

        return hook

    for name, module in model.named_modules():
        if hasattr(module, "has_gate"):
            handles.append(module.register_forward_pre_hook(keep_experts(name)))
        elif isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() == 2:
            handles.append(module.register_forward_pre_hook(keep(name)))
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None])
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in caught.items()}


@torch.no_grad()
def measured(name: str, dense: nn.Module, pruned: nn.Module, inputs: dict[str, Tensor], transposed: bool) -> float:
    """‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖², by running both."""
    if "experts" in name:
        before, after = dense.get_parameter(name), pruned.get_parameter(name)
        pairs = [(inputs[f"{name}.{e}"] @ before[e].T, inputs[f"{name}.{e}"] @ after[e].T) for e in range(len(before))]
    else:
        before, after = dense.get_parameter(f"{name}.weight"), pruned.get_parameter(f"{name}.weight")
        x = inputs[name]
        pairs = [(x @ before, x @ after)] if transposed else [(x @ before.T, x @ after.T)]
    lost = sum(float((one - two).double().square().sum()) for one, two in pairs)
    return lost / sum(float(one.double().square().sum()) for one, _ in pairs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_predicted_is_measured(family: str, method: str, sparsity: str, tokenizer, quick) -> None:
    dense = model_of(family)
    pruned = copy.deepcopy(dense)
    routers = ["model.layers.*.mlp.gate"] if family == "mixtral" else []
    settings = {**quick, "samples": 6, "seqlen": 48, "include": ["*", *routers]}
    result = prunus.prune(pruned, tokenizer=tokenizer, method=method, sparsity=sparsity, **settings)
    windows = calibration(tokenizer, settings)
    inputs = inputs_of_first_block(dense, windows)
    first = [site for site in result.sites if site["block"] == 0]
    assert {site["name"].rpartition(".")[2] for site in first} >= {
        "llama": {"q_proj", "down_proj"}, "gpt2": {"c_attn", "c_fc"}, "mixtral": {"gate_up_proj", "down_proj", "gate"},
    }[family]  # fmt: skip
    for site in first:
        assert site["error_of"] == ("output" if method == "sparsegpt" else "sample")
        expected = measured(site["name"], dense, pruned, inputs, family == "gpt2")
        assert site["rel_error"] == pytest.approx(expected, rel=2e-3), site["name"]


def test_the_head_sees_what_the_pruned_blocks_give(tokenizer, quick) -> None:
    dense = model_of("llama")
    pruned = copy.deepcopy(dense)
    settings = {**quick, "samples": 6, "seqlen": 48, "include": ["*", "lm_head"]}
    result = prunus.prune(pruned, tokenizer=tokenizer, method="sparsegpt", **settings)
    inputs = inputs_of_first_block(pruned, calibration(tokenizer, settings))
    (head,) = [site for site in result.sites if site["name"] == "lm_head"]
    assert head["block"] is None
    assert head["rel_error"] == pytest.approx(measured("lm_head", dense, pruned, inputs, False), rel=2e-3)


def calibration(tokenizer, settings) -> Tensor:
    from pathlib import Path

    from prunus.observe.windows import random_windows

    ids = torch.tensor(tokenizer(Path(settings["calibration"]).read_text())["input_ids"])
    return random_windows(ids, settings["samples"], settings["seqlen"], 0, "text")
