"""From an output that is aimed at to the weights that come nearest to it. No solver of its own: it comes before any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..core.matmul import linear
from ..core.problem import Problem
from ..core.roles import OutputTarget
from .factor import inverse_factor


def aimed(problems: Sequence[Problem], target: OutputTarget, damp: float) -> list[Problem]:
    """Problems that share their inputs, with the weights to go for in the place of the dense ones.

    With the wanted output WT and E = (T − X)ᵀX, ‖WT − ŴX‖² is, but for a constant, ‖(W* − Ŵ)X‖² with W* = W + WEH⁻¹:
    so any solver that goes from W* goes for WT. Layers of which nothing is dropped keep their weights.
    """
    first = problems[0]
    drift = target.drift(first.stats)
    if drift is None or not any(problem.sparsity > 0 for problem in problems):
        return list(problems)
    upper = inverse_factor(first.stats, damp, first.site.name).upper
    drifts = drift if drift.dim() == 3 else drift.unsqueeze(0)
    steps = [linear(linear(one, factor), factor.mT) for one, factor in zip(drifts, upper, strict=True)]
    return [replace(p, aim=_moved(p.weight, steps)) if p.sparsity > 0 else p for p in problems]


def _moved(weight: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """W + WP for every batch entry of ``weight [batch rows cols]``, with P of its own ``[cols cols]``."""
    moved = weight.clone()
    for one, step in zip(moved, steps, strict=True):
        one += linear(one, step.mT)
    return moved
