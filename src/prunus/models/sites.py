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
    """Sites in the order of the modules; those that are pruned only when named, with the reason; what is no Site."""

    sites: list[Site] = field(default_factory=list)
    on_request: dict[str, tuple[Site, str]] = field(default_factory=dict)
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
    """Every Site of one block; ``prefix`` is its path, ``stored_dtype`` gives a parameter's dtype on disk."""
    found = Found()
    experts = {len(module.down_proj) for module in block.modules() if is_stacked_experts(module)}  # type: ignore[arg-type]
    for path, module in block.named_modules():
        name = f"{prefix}.{path}" if path else prefix
        if _is_router(module, experts):
            found.on_request[name] = (_matrix_site(module, name, path, index, stored_dtype), "router")
        elif isinstance(module, nn.Linear) or is_transposed_linear(module):
            found.sites.append(_matrix_site(module, name, path, index, stored_dtype))
        elif is_stacked_experts(module):
            found.sites.extend(_expert_sites(module, name, path, index, stored_dtype))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.dim() >= 2:
                    found.untouched[f"{name}.{key}"] = "no linear map that prunus knows"
    return found


def sites_outside(model: Any, inside: str, stored_dtype: Callable[[str], torch.dtype]) -> Found:
    """Embeddings and head: pruned only when named. ``inside`` is the path of the blocks.

    A head that shares its tensor with the embedding is no Site: pruning it would prune both.
    """
    found = Found()
    head, tied = model.get_output_embeddings(), set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if module is head and isinstance(module, nn.Linear):
            if f"{name}.weight" in tied:
                found.untouched[name] = "head tied to the embedding: pruning it would prune both"
            else:
                found.on_request[name] = (_matrix_site(module, name, name, None, stored_dtype), "head")
        elif isinstance(module, nn.Embedding):
            if tied and module is model.get_input_embeddings():
                found.untouched[name] = "embedding tied to the head: pruning it would prune both"
            else:
                found.on_request[name] = (_matrix_site(module, name, name, None, stored_dtype), "embedding")
    return found


def _is_router(module: nn.Module, experts: set[int]) -> bool:
    """A matrix with one output an expert, in a block that has that many ``experts``."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and weight.shape[0] in experts


def _matrix_site(module: Any, name: str, role: str, index: int | None, stored_dtype: Callable[[str], torch.dtype]) -> Site:
    layout = Layout(transposed=is_transposed_linear(module))
    rows, cols = module.weight.shape[::-1] if layout.transposed else module.weight.shape
    parameter = f"{name}.weight"
    return Site(name, parameter, (1, rows, cols), stored_dtype(parameter), index, role, layout)


def _expert_sites(
    module: Any, name: str, path: str, index: int, stored_dtype: Callable[[str], torch.dtype]
) -> Iterator[Site]:
    for key in EXPERT_WEIGHTS:
        weight = getattr(module, key, None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 3:
            continue
        rows, cols = weight.shape[1:][::-1] if module.is_transposed else weight.shape[1:]
        parts: tuple[Part, ...] = ()
        if key == "gate_up_proj":
            half = rows // 2
            parts = (Part("gate", 0, half, rows), Part("up", half, half, rows)) if module.is_concatenated else (
                Part("gate", 0, 1, 2), Part("up", 1, 1, 2)
            )  # fmt: skip
        layout = Layout(stacked=True, transposed=module.is_transposed, parts=parts)
        parameter, shape = f"{name}.{key}", (weight.shape[0], rows, cols)
        yield Site(parameter, parameter, shape, stored_dtype(parameter), index, f"{path}.{key}", layout)
