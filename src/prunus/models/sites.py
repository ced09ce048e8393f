"""The Sites of a block: linears, transposed linears and stacked experts, found by structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core.site import Layout, Part, Site

EXPERT_WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")


@dataclass
class Found:
    """Sites in the order of the modules, and every other matrix with the reason why it is none."""

    sites: list[Site] = field(default_factory=list)
    untouched: dict[str, str] = field(default_factory=dict)


def is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's ``Conv1D``: a linear that stores ``[in out]``."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_stacked_experts(module: nn.Module) -> bool:
    """Experts in transformers' stacked form: three-dimensional parameters and the flags of its experts interface."""
    return hasattr(module, "has_gate") and hasattr(module, "is_transposed") and isinstance(
        getattr(module, "down_proj", None), nn.Parameter
    )  # fmt: skip


def sites_of_block(block: nn.Module, prefix: str, index: int, stored_dtype: Callable[[str], torch.dtype]) -> Found:
    """Every Site of one block; ``prefix`` is its path, ``stored_dtype`` the dtype on disk of a parameter."""
    found = Found()
    for path, module in block.named_modules():
        name = f"{prefix}.{path}" if path else prefix
        if isinstance(module, nn.Linear) or is_transposed_linear(module):
            if _is_router(module, block):
                found.untouched[name] = "router"
            else:
                found.sites.append(_linear_site(module, name, index, stored_dtype))
        elif is_stacked_experts(module):
            found.sites.extend(_expert_sites(module, name, index, stored_dtype))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.dim() >= 2:
                    found.untouched[f"{name}.{key}"] = "router" if _is_router(module, block) else "no linear map"
    return found


def _is_router(module: nn.Module, block: nn.Module) -> bool:
    """A matrix with one output an expert, in a block that has that many experts."""
    weight = getattr(module, "weight", None)
    counts = set(_expert_counts(block))
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and weight.shape[0] in counts


def _expert_counts(block: nn.Module) -> Iterator[int]:
    for module in block.modules():
        if is_stacked_experts(module):
            yield module.down_proj.shape[0]  # type: ignore[union-attr, index, misc]


def _linear_site(module: Any, name: str, index: int, stored_dtype: Callable[[str], torch.dtype]) -> Site:
    layout = Layout(transposed=is_transposed_linear(module))
    rows, cols = module.weight.shape[::-1] if layout.transposed else module.weight.shape
    parameter = f"{name}.weight"
    return Site(name, parameter, (1, rows, cols), stored_dtype(parameter), index, name.rpartition(".")[2], layout)


def _expert_sites(
    module: Any, name: str, index: int, stored_dtype: Callable[[str], torch.dtype]
) -> Iterator[Site]:
    for role in EXPERT_WEIGHTS:
        weight = getattr(module, role, None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 3:
            continue
        rows, cols = weight.shape[1:][::-1] if module.is_transposed else weight.shape[1:]
        parts: tuple[Part, ...] = ()
        if role == "gate_up_proj":
            half = rows // 2
            parts = (Part("gate", 0, half, rows), Part("up", half, half, rows)) if module.is_concatenated else (
                Part("gate", 0, 1, 2), Part("up", 1, 1, 2)
            )  # fmt: skip
        layout = Layout(stacked=True, transposed=module.is_transposed, parts=parts)
        parameter = f"{name}.{role}"
        yield Site(parameter, parameter, (weight.shape[0], rows, cols), stored_dtype(parameter), index, role, layout)
