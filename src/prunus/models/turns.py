"""Which layers of a block feed which others, read off the graph that autograd records while the block runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.differentiable import differentiable
from ..core.errors import UnsupportedModelError
from ..core.site import Site


def turns(sites: Sequence[Site], parameters: Mapping[str, nn.Parameter], run: Callable[[Tensor], Tensor],
          entering: Tensor) -> list[list[str]]:  # fmt: skip
    """The Sites' roles in the order in which they can be solved, those of one turn with no input that another changes.

    q, k and v are one turn, then come o, gate and up, and down; where attention and MLP read the same norm, two turns are
    enough. ``parameters`` are the Sites' by role; ``run(hidden)`` is the block on a batch of hidden states like
    ``entering``. Experts that no token of the batch reaches take the turn of their like.

    Raises:
        UnsupportedModelError: if the graph does not show a Site.
    """
    entering = entering.detach().requires_grad_()
    with torch.enable_grad(), differentiable(list(parameters.values())), _nothing_saved():
        output = run(entering.clone())  # a leaf could not be changed in place
        depth = _depths(output, {id(parameter) for parameter in parameters.values()})
    found = {role: depth[id(parameter)] for role, parameter in parameters.items() if id(parameter) in depth}
    like = {_kind(role): level for role, level in found.items()}
    hidden = [site.name for site in sites if _kind(site.role) not in like]
    if hidden:
        raise UnsupportedModelError(
            f"{hidden[0]}: no gradient comes to it, so what it feeds cannot be told. Choose --no-true-sequential."
        )
    levels = {site.role: found.get(site.role, like[_kind(site.role)]) for site in sites}
    return [[role for role, level in levels.items() if level == turn] for turn in sorted(set(levels.values()))]


def _kind(role: str) -> str:
    """A role without the numbers of list entries."""
    return re.sub(r"\b\d+\b", "*", role)


def _nothing_saved() -> Any:
    """No tensors are kept for a backward pass that never comes."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda packed: packed)


class _Made(NamedTuple):
    """What a node of the graph gives: computed from parameters alone, these, or else behind so many of the layers."""

    of_parameters: frozenset[int] | None
    depth: int = 0


def _depths(output: Tensor, wanted: set[int]) -> dict[int, int]:
    """How many of the ``wanted`` parameters, by id, stand one behind the other before each of them meets its input."""
    made: dict[Any, _Made] = {}
    depth: dict[int, int] = {}
    open_nodes: list[Any] = [output.grad_fn] if output.grad_fn is not None else []
    while open_nodes:
        node = open_nodes[-1]
        before = [other for other, _ in node.next_functions if other is not None]
        missing = [other for other in before if other not in made]
        if missing:
            open_nodes += missing
            continue
        open_nodes.pop()
        if node not in made:
            made[node] = _result(node, [made[other] for other in before], wanted, depth)
    return depth


def _result(node: Any, before: Sequence[_Made], wanted: set[int], depth: dict[int, int]) -> _Made:
    """What one node gives; where parameters meet an input in it, their ``depth`` is set."""
    leaf = getattr(node, "variable", None)
    if isinstance(leaf, nn.Parameter):
        return _Made(frozenset({id(leaf)}) & wanted)
    parameters = frozenset[int]().union(*(one.of_parameters for one in before if one.of_parameters is not None))
    if before and all(one.of_parameters is not None for one in before):
        return _Made(parameters)
    level = max((one.depth for one in before if one.of_parameters is None), default=0)
    for parameter in parameters:
        depth[parameter] = max(level, depth.get(parameter, 0))
    return _Made(None, level + bool(parameters))
