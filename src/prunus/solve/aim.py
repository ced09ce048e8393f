"""From an output that is aimed at to the weights that come nearest to it. No solver of its own: it comes before any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.matmul import linear
from ..core.problem import Problem
from ..core.roles import OutputTarget
from .factor import inverse_factor


def aimed(problems: Sequence[Problem], target: OutputTarget, damp: float) -> tuple[list[Problem], tuple[str, ...]]:
    """Problems that share their inputs, with the weights to go for in the place of the dense ones, and notes on the way.

    With the wanted output Y and M = (Y − XWᵀ)ᵀX, ‖Y − XŴᵀ‖² is, but for a constant, ‖X(W* − Ŵ)ᵀ‖² with W* = W + MH⁻¹: so
    any solver that goes from W* goes for Y. Layers of which nothing is dropped or rounded keep their weights.
    """
    beyond = [target.beyond(p.weight, p.stats) if p.changes else None for p in problems]
    if all(moment is None for moment in beyond):
        return list(problems), ()
    factor = inverse_factor(problems[0].stats, damp, problems[0].site.name)
    found = [
        replace(problem, aim=problem.weight + _solved(moment, factor.upper)) if moment is not None else problem
        for problem, moment in zip(problems, beyond, strict=True)
    ]
    return found, factor.notes


def _solved(moment: Tensor, upper: Tensor) -> Tensor:
    """MH⁻¹ for every batch entry of ``moment [batch rows cols]``, with H⁻¹ = UᵀU."""
    return torch.stack([linear(linear(one, u), u.mT) for one, u in zip(moment, upper, strict=True)])
