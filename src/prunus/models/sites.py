"""The Sites of a block: linears, transposed linears and stacked experts, found by structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import nn

from ..core.errors import UnsupportedModelError
from ..core.site import Layout, Part, Site
from .fused import fused_parts

_LEFT_DENSE = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)
EXPERT_WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")


@dataclass
class Found:
    """Sites in the order of the modules; those that are pruned only when named, with the reason; what is no Site.

    ``unsupported`` are matrices that prunus does not know how to prune, by name, with the reason.
    """

    sites: list[Site] = field(default_factory=list)
    on_request: dict[str, tuple[Site, str]] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)


def is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's ``Conv1D``: a linear that stores ``[in out]``."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_stacked_experts(module: nn.Module) -> bool:
    """Experts in transformers' stacked form: three-dimensional parameters and the flags of its experts interface."""
    return hasattr(module, "has_gate") and hasattr(module, "is_transposed") and isinstance(
        getattr(module, "down_proj", None), nn.Parameter
    )  # fmt: skip


def is_batched_experts(module: nn.Module) -> bool:
    """Llama 4's experts: stacked ``[experts in out]``, multiplied at once, zeros in place of tokens that others got."""
    return any(kind.__name__ == "Llama4TextExperts" for kind in type(module).__mro__)


def is_list_of_like(module: nn.Module) -> TypeGuard[nn.ModuleList]:
    """A list of several modules of one class: experts of a model that does not stack them, or what always runs."""
    return isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(entry) for entry in module}) == 1


def check_apart(blocks: Sequence[nn.Module], prefixes: Sequence[str]) -> None:
    """Raise UnsupportedModelError if a parameter is in more than one of the blocks, whose paths are ``prefixes``."""
    owners: dict[int, tuple[int, str]] = {}
    for index, block in enumerate(blocks):
        for name, parameter in block.named_parameters():
            first, other = owners.setdefault(id(parameter), (index, name))
            if first != index:
                raise UnsupportedModelError(
                    f"{prefixes[index]}.{name} is the same tensor as {prefixes[first]}.{other}: blocks that share weights "
                    "cannot be pruned one after the other."
                )


def sites_of_block(block: nn.Module, prefix: str, index: int, stored_dtype: Callable[[str], torch.dtype]) -> Found:
    """Every Site of one block; ``prefix`` is its path, ``stored_dtype`` gives a parameter's dtype on disk."""
    found = Found()
    places = _router_places(block)
    for path, module in block.named_modules():
        name = f"{prefix}.{path}" if path else prefix
        if _is_router(path, module, places):
            found.on_request[name] = (_matrix_site(module, name, path, index, stored_dtype), "router")
        elif isinstance(module, nn.Linear) or is_transposed_linear(module):
            found.sites.append(_matrix_site(module, name, path, index, stored_dtype, block))
        elif is_stacked_experts(module) or is_batched_experts(module):
            found.sites.extend(_expert_sites(module, name, path, index, stored_dtype))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                if sum(extent > 1 for extent in parameter.shape) < 2:
                    continue
                if isinstance(module, _LEFT_DENSE):
                    found.untouched[f"{name}.{key}"] = f"{type(module).__name__} inside a block"
                else:
                    found.unsupported[f"{name}.{key}"] = f"{type(module).__name__} holds a matrix that is no linear layer"
    return found


def sites_outside(model: Any, inside: Sequence[str], stored_dtype: Callable[[str], torch.dtype]) -> Found:
    """Embeddings and head: pruned only when named. ``inside`` are the paths of the stacks of blocks.

    A head that shares its tensor with the embedding is no Site: pruning it would prune both.
    """
    found = Found()
    head, ties = model.get_output_embeddings(), model.all_tied_weights_keys
    for name, module in model.named_modules():
        if f"{name}.".startswith(tuple(f"{path}." for path in inside)):
            continue
        tied = f"{name}.weight" in {*ties, *ties.values()}
        if module is head and isinstance(module, nn.Linear):
            if tied:
                found.untouched[name] = "head tied to the embedding: pruning it would prune both"
            else:
                found.on_request[name] = (_matrix_site(module, name, name, None, stored_dtype), "head")
        elif isinstance(module, nn.Embedding):
            if tied:
                found.untouched[name] = "embedding tied to the head: pruning it would prune both"
            else:
                found.on_request[name] = (_matrix_site(module, name, name, None, stored_dtype), "embedding")
        elif isinstance(module, nn.Linear) or is_transposed_linear(module):
            found.untouched[name] = "outside the blocks"
    return found


def _router_places(block: nn.Module) -> dict[str, int]:
    """Paths of the modules that hold experts (stacked in a child, or modules in a list), with the number of experts."""
    places = {}
    for path, module in block.named_modules():
        if is_list_of_like(module):
            places[path.rpartition(".")[0]] = len(module)
        stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3 and not isinstance(module, nn.Conv1d)]
        if stacked:
            places[path.rpartition(".")[0]] = len(stacked[0])
    return places


def _is_router(path: str, module: nn.Module, places: dict[str, int]) -> bool:
    """A matrix beside the experts with one output an expert, or a gate with a single output."""
    weight = getattr(module, "weight", None)
    experts = places.get(path.rpartition(".")[0])
    return experts is not None and isinstance(weight, nn.Parameter) and weight.dim() == 2 and len(weight) in (1, experts)


def _matrix_site(module: Any, name: str, role: str, index: int | None, stored_dtype: Callable[[str], torch.dtype],
                 block: nn.Module | None = None) -> Site:  # fmt: skip
    transposed = is_transposed_linear(module)
    rows, cols = module.weight.shape[::-1] if transposed else module.weight.shape
    owner, _, attribute = role.rpartition(".")
    parts = fused_parts(block.get_submodule(owner), attribute, rows) if block is not None else ()
    parameter = f"{name}.weight"
    return Site(name, parameter, (1, rows, cols), stored_dtype(parameter), index, role, Layout(False, transposed, parts))


def _expert_sites(
    module: Any, name: str, path: str, index: int, stored_dtype: Callable[[str], torch.dtype]
) -> Iterator[Site]:
    batched = is_batched_experts(module)
    transposed, concatenated = (True, True) if batched else (module.is_transposed, module.is_concatenated)
    for key in EXPERT_WEIGHTS:
        weight = getattr(module, key, None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 3:
            continue
        rows, cols = weight.shape[1:][::-1] if transposed else weight.shape[1:]
        parts: tuple[Part, ...] = ()
        if key == "gate_up_proj":
            half = rows // 2
            parts = (Part("gate", 0, half, rows), Part("up", half, half, rows)) if concatenated else (
                Part("gate", 0, 1, 2), Part("up", 1, 1, 2)
            )  # fmt: skip
        layout = Layout(stacked=True, transposed=transposed, parts=parts)
        parameter, shape = f"{name}.{key}", (weight.shape[0], rows, cols)
        yield Site(parameter, parameter, shape, stored_dtype(parameter), index, f"{path}.{key}", layout)
