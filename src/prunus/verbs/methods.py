"""methods: every registered choice, with its paper, what it needs and costs."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from ..core import registry
from ..core.errors import RecipeError
from ..core.stats import Needs
from ..presets import PRESETS


@dataclass(frozen=True)
class Option:
    """One setting of a method: what it takes (``kind``), its default, and what it means."""

    kind: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Choice:
    """One member of an axis, or a preset; ``about`` is all there is to say, ``summary`` its first line."""

    axis: str
    name: str
    summary: str
    about: str
    paper: str
    needs: str
    cost: str
    options: dict[str, Option]


def methods(*names: str) -> list[Choice]:
    """Presets, then the members of every axis; only those of these names, where any are given.

    Raises:
        RecipeError: if a name is nobody's.
    """
    found = _all()
    known = {choice.name for choice in found}
    faults = [f"no method is called '{name}'{registry.suggest(name, known)}" for name in names if name not in known]
    if faults:
        raise RecipeError(faults)
    return [choice for choice in found if not names or choice.name in names]


def _all() -> list[Choice]:
    presets = []
    for name, preset in PRESETS.items():
        extras = [spec for spec in (preset.target, preset.grid) if spec not in ("sparse", "none")]
        for spec in preset.stages:
            arranges = registry.stage.make(spec.partition(":")[0]).arranges
            extras.append(f"{spec} (N:M only)" if arranges else spec)
        extras += ["true sequential"] if preset.true_sequential else []
        extras += [f"own text {preset.own_text:g}"] if preset.own_text else []
        extras += [f"temper {preset.temper:g}"] if preset.temper != 1 else []
        axes = " × ".join((preset.criterion, preset.pattern, preset.allocation, preset.solver, *extras))
        axes += "; for N:M: allocation uniform" if preset.allocation != "uniform" else ""
        presets.append(Choice("preset", name, preset.about, preset.about, "", axes, "", {}))
    return presets + [
        Choice(
            axis.axis,
            entry.name,
            entry.summary,
            _plain(inspect.getdoc(entry.cls) or ""),
            entry.paper,
            _needs(axis, entry.name),
            entry.cost,
            _options(entry),
        )
        for axis in registry.AXES
        for entry in axis.entries().values()
    ]


def _options(entry: registry.Entry[Any]) -> dict[str, Option]:
    kinds, explained = entry.kinds, entry.explained
    return {name: Option(kinds[name], default, explained[name]) for name, default in entry.options.items()}


def _plain(doc: str) -> str:
    """A docstring as text: paragraphs in one line each, without markup and examples."""
    words = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda found: (found[1] or found[2]).rpartition(".")[2], doc)
    parts = [" ".join(part.split()) for part in words.split("\n\n") if not part.strip().startswith(">>>")]
    return "\n\n".join(parts)


def _needs(axis: Any, name: str) -> str:
    looks = {"depth": "dense hidden states", "experts": "what experts give"}
    if axis.axis in looks:
        return looks[axis.axis]
    method = axis.make(name)
    needs = getattr(method, "needs", Needs.NOTHING)
    words = {
        Needs.NORM: "input norms", Needs.ABS: "mean |input|", Needs.GRAM: "input Gram", Needs.DRIFT: "dense inputs",
        Needs.SUM: "input means", Needs.WINDOWS: "mean |input| a window", Needs.GRAD: "gradients",
        Needs.GRAD_SQ: "squared gradients",
    }  # fmt: skip
    found = [word for need, word in words.items() if need in needs]
    if getattr(method, "needs_profile", False):
        found.append("all scores")
    if getattr(method, "arranges", False):
        found.append("the criterion's scores")
    if getattr(method, "tunes", False):
        found.append("dense hidden states")
    return ", ".join(found) or "weights only"
