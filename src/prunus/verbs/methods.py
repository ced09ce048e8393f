"""methods: every registered choice, with its paper, what it needs and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core import registry
from ..core.stats import Needs
from ..presets import PRESETS


@dataclass(frozen=True)
class Choice:
    """One member of an axis."""

    axis: str
    name: str
    summary: str
    paper: str
    needs: str
    cost: str
    options: dict[str, Any]


def methods() -> list[Choice]:
    """Presets, then the members of every axis."""
    presets = []
    for name, preset in PRESETS.items():
        extras = [spec for spec in (preset.target, preset.grid) if spec not in ("sparse", "none")] + list(preset.stages)
        extras += ["true sequential"] if preset.true_sequential else []
        extras += [f"own text {preset.own_text:g}"] if preset.own_text else []
        axes = " × ".join((preset.criterion, preset.pattern, preset.allocation, preset.solver, *extras))
        presets.append(Choice("preset", name, preset.about, "", axes, "", {}))
    return presets + [
        Choice(axis.axis, entry.name, entry.summary, entry.paper, _needs(axis, entry.name), entry.cost, entry.options)
        for axis in registry.AXES
        for entry in axis.entries().values()
    ]


def _needs(axis: Any, name: str) -> str:
    method = axis.make(name)
    needs = getattr(method, "needs", Needs.NOTHING)
    words = {
        Needs.NORM: "input norms", Needs.ABS: "mean |input|", Needs.GRAM: "input Gram", Needs.DRIFT: "dense inputs",
        Needs.GRAD: "gradients", Needs.GRAD_SQ: "squared gradients",
    }  # fmt: skip
    found = [word for need, word in words.items() if need in needs]
    if getattr(method, "needs_profile", False):
        found.append("all scores")
    if getattr(method, "arranges", False):
        found.append("the criterion's scores")
    if getattr(method, "tunes", False):
        found.append("dense hidden states")
    return ", ".join(found) or "weights only"
