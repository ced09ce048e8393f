"""A layer's error, measured by running it: what every prediction is held against."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from prunus.core.problem import Problem
from prunus.core.site import Site
from prunus.core.stats import Stats
from prunus.criteria.obs import Obs
from prunus.patterns.unstructured import Unstructured
from prunus.solve.sparsegpt import SparseGPT

Caught = dict[tuple[str, int], list[Tensor]]


def inputs_of(model: nn.Module, block: nn.Module, windows: Tensor) -> dict[tuple[str, int], Tensor]:
    """Inputs ``[tokens cols]`` of a block's linears (expert 0) and of each of its experts, caught by plain hooks."""
    caught: Caught = {}
    handles = []
    for path, module in block.named_modules():
        if hasattr(module, "has_gate"):
            handles.append(module.register_forward_pre_hook(_of_experts(caught, path)))
        elif type(module).__name__ == "Llama4TextExperts":
            handles.append(module.register_forward_pre_hook(_of_batched_experts(caught, path)))
        elif isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() == 2:
            handles.append(module.register_forward_pre_hook(_of_linear(caught, path)))
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {place: torch.cat(parts) for place, parts in caught.items()}


def _of_linear(caught: Caught, path: str):
    return lambda _module, args: caught.setdefault((path, 0), []).append(args[0].reshape(-1, args[0].shape[-1]))


def _of_experts(caught: Caught, path: str):
    def hook(module, args) -> None:
        hidden, index = args[0], args[1]
        for expert in range(len(module.down_proj)):
            tokens = hidden[(index == expert).any(-1)]
            first = module.gate_up_proj[expert] if module.is_transposed else module.gate_up_proj[expert].T
            bias = module.gate_up_proj_bias[expert] if module.has_bias else 0
            caught.setdefault((f"{path}.gate_up_proj", expert), []).append(tokens)
            caught.setdefault((f"{path}.down_proj", expert), []).append(module._apply_gate(tokens @ first + bias))

    return hook


def _of_batched_experts(caught: Caught, path: str):
    def hook(module, args) -> None:
        for expert, hidden in enumerate(args[0].view(len(module.down_proj), -1, args[0].shape[-1])):
            tokens = hidden[(hidden != 0).any(-1)]
            gate, up = (tokens @ module.gate_up_proj[expert]).chunk(2, -1)
            caught.setdefault((f"{path}.gate_up_proj", expert), []).append(tokens)
            caught.setdefault((f"{path}.down_proj", expert), []).append(module.act_fn(gate) * up)

    return hook


@torch.no_grad()
def measured(site: Site, dense: nn.Module, pruned: nn.Module, inputs: dict[tuple[str, int], Tensor]) -> float:
    """‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² of one Site, by running both."""
    before, after = (site.layout.to_matrix(model.get_parameter(site.parameter)).double() for model in (dense, pruned))
    lost = total = 0.0
    for expert in range(site.batch):
        x = inputs[site.role, expert].double()
        total += float((x @ before[expert].T).square().sum())
        lost += float((x @ (before[expert] - after[expert]).T).square().sum())
    return lost / total


@torch.no_grad()
def solved_alone(site: Site, dense: nn.Module, inputs: Tensor, expert: int = 0) -> Tensor:
    """What SparseGPT at 50% makes of one matrix ``[rows cols]`` of a Site whose only inputs are ``[tokens cols]``."""
    weight = site.layout.to_matrix(dense.get_parameter(site.parameter))[expert : expert + 1].detach()
    stats = Stats.of(tokens=len(inputs), gram=inputs.T @ inputs)
    problem = Problem(replace(site, shape=(1, *site.shape[1:])), weight, stats, 0.5, Unstructured(), Obs())
    (solution,) = SparseGPT().solve([problem])
    return solution.weight[0]
