"""inspect: along what a model can be cut, and along what not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..recipe import Recipe
from ..structure.axes import Anatomy
from ..structure.cost import Costs, Shape
from ..structure.outline import anatomy_of
from ..structure.sizes import Wanted, step_of
from .prepare import open_model, vocabulary

SEQLEN = 2048
"""Tokens of context that attention's operations are counted for."""


@dataclass(frozen=True)
class Inspection:
    """A model's anatomy: its axes, what shrinks together along each, and what has to stay."""

    model: str
    anatomy: Anatomy
    costs: Costs

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        axes = {}
        whole = Shape({}, self.costs.count)
        for name, axis in self.anatomy.axes.items():
            size = Wanted.parse(0.5).of(axis.size, step_of(axis))
            half = Shape({name: size}, self.costs.count)
            saved = {
                what: 1 - count(half) / count(whole)
                for what, count in (("parameters", self.costs.parameters), ("operations", self.costs.operations))
            }
            members = [
                {"units": one.units, "members": {str(place): at.shape[1] for place, at in one.members.items()}}
                for one in axis.couplings
            ]
            axes[name] = {
                "size": axis.size, "step": step_of(axis), "groups": axis.groups, "config": list(axis.scaled),
                "half": {"size": size, "saves": saved}, "couplings": members,
            }  # fmt: skip
        return {"model": self.model, "axes": axes, "left": dict(self.anatomy.left)}


def inspect(model: str | Path, *, trust_remote_code: bool = False) -> Inspection:
    """Find the couplings of a model: groups of tensors that shrink together, and the number of its config that says so.

    A few tokens go through one block of each kind; the config is changed, number by number, to see which shapes follow.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    source = open_model(model, Recipe(trust_remote_code=trust_remote_code))
    anatomy = anatomy_of(source, vocabulary(source), trust_remote_code)
    return Inspection(str(model), anatomy, Costs(source, anatomy, SEQLEN))
