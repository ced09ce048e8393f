"""inspect: along what a model can be cut, and along what not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint.source import Checkpoint
from ..models.images import blank_image, build_image_model, is_image_model
from ..models.locate import locate
from ..models.modes import evaluating
from ..models.skeleton import load_config
from ..recipe import Recipe
from ..structure.axes import Anatomy
from ..structure.cost import Costs, Shape
from ..structure.coupling import Coupling, Traced
from ..structure.outline import anatomy_of, is_buildable
from ..structure.sizes import half_of, sizes_of, step_of
from ..structure.trace import called, trace
from .prepare import open_model, vocabulary

SEQLEN = 2048
"""Tokens of context that attention's operations are counted for."""


@dataclass(frozen=True)
class Inspection:
    """A model's anatomy: its axes, what shrinks together along each, and what has to stay; ``halves`` is about half of
    every axis, ``heads`` the numbers of query and of key/value heads that the config lets stay."""

    model: str
    anatomy: Anatomy
    costs: Costs
    halves: Mapping[str, int]
    heads: Mapping[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        axes, count = {}, self.costs.count
        for name, axis in self.anatomy.axes.items():
            size = self.halves[name]
            axes[name] = {
                "size": axis.size, "step": step_of(axis), "groups": axis.groups, "config": list(axis.scaled),
                "half": {"size": size, "saves": self._saved(Shape({name: size}, count))},
                "couplings": told_of(axis.couplings), **({"sizes": self.heads[name]} if name in self.heads else {}),
            }  # fmt: skip
        half = max(1, count // 2)
        layers = {"size": count, "half": {"size": half, "saves": self._saved(Shape({}, half))}}
        return {"model": self.model, "axes": axes, "layers": layers, "left": dict(self.anatomy.left)}

    def _saved(self, shape: Shape) -> dict[str, float]:
        whole = Shape({}, self.costs.count)
        counts = (("parameters", self.costs.parameters), ("operations", self.costs.operations))
        return {what: 1 - count(shape) / count(whole) for what, count in counts}


@dataclass(frozen=True)
class ModuleInspection:
    """What shrinks together in a module of any kind, and what has to stay."""

    model: str
    traced: Traced

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        left = {str(place): reason for place, reason in self.traced.fixed.items()}
        return {"model": self.model, "couplings": told_of(self.traced.couplings), "left": left}


def told_of(couplings: Sequence[Coupling]) -> list[dict[str, Any]]:
    """Couplings as plain values: of every member how many positions a unit has."""
    return [
        {"units": one.units, "members": {str(place): at.shape[1] for place, at in one.members.items()}} for one in couplings
    ]


def inspect(model: str | Path, *, trust_remote_code: bool = False) -> Inspection | ModuleInspection:
    """Find the couplings of a model: groups of tensors that shrink together, and the number of its config that says so.

    A few tokens go through one block of each kind; the config is changed, number by number, to see which shapes follow.
    An image classifier is followed as a whole on a blank image: a :class:`ModuleInspection`.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    folder = Checkpoint.open(locate(model)).folder
    config = load_config(folder, trust_remote_code)
    if is_image_model(config):
        network = build_image_model(config)
        return ModuleInspection(str(model), trace(network, partial(network, blank_image(config))))
    source = open_model(model, Recipe(trust_remote_code=trust_remote_code))
    anatomy = anatomy_of(source, vocabulary(source), trust_remote_code)
    buildable = partial(is_buildable, source, trust_remote_code)
    heads = {name: sizes_of(anatomy.axes[name], buildable) for name in ("heads", "kv_groups") if name in anatomy.axes}
    halves = {name: half_of(axis, buildable) for name, axis in anatomy.axes.items()}
    return Inspection(str(model), anatomy, Costs(source, anatomy, SEQLEN), halves, heads)


def inspect_module(model: nn.Module, example: Any) -> ModuleInspection:
    """Find the couplings of any torch module in memory, from one pass of it: what :func:`shrink_module` can cut.

    The ``example`` that it is called with is a tensor, a tuple of arguments, or a dictionary of keywords.

    Raises:
        UnsupportedModelError: if the module does not run on it.
    """
    with evaluating(model):
        return ModuleInspection(type(model).__name__, trace(model, partial(called, model, example)))
