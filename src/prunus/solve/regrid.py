"""From solved weights to weights on a grid, their rounding errors spread over the other survivors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..core.mask import Mask
from ..core.problem import Solution
from .sparsegpt import SparseGPT
from .stacked import Stacked


def finished(
    stack: Stacked, weight: Tensor, keep: Tensor, seconds: float, notes: tuple[str, ...], damp: float
) -> list[Solution]:
    """Solutions of ``weight [batch rows cols]`` under the mask ``keep``, on the grids of those Problems that have one.

    Where the weight is the least-squares optimum on its mask, ‖(W − Q)X‖² is its own error plus ‖(Ŵ − Q)X‖² for any Q on
    that mask: so the second is made small, by SparseGPT's elimination with Ŵ as the weight and the mask fixed.
    """
    gridded = [number for number, problem in enumerate(stack.problems) if problem.grid is not None]
    if not gridded:
        return stack.solutions(weight, keep, seconds, notes)
    fixed = []
    for number in gridded:
        problem, span = stack.problems[number], stack.spans[number]
        mask = Mask(keep[:, span], problem.pattern, problem.dense)
        fixed.append(replace(problem, weight=weight[:, span] * keep[:, span], aim=None, fixed_mask=mask))
    rounded = weight.clone()
    extras: list[Mapping[str, Tensor]] = [{} for _ in stack.problems]
    for number, solution in zip(gridded, SparseGPT(damp=damp).solve(fixed), strict=True):
        rounded[:, stack.spans[number]] = solution.weight.to(rounded.dtype)
        extras[number] = solution.extra
        seconds += solution.seconds
        notes += solution.notes
    return stack.solutions(rounded, keep, seconds, tuple(dict.fromkeys(notes)), extras)
