"""Leave the survivors as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, final

from torch import Tensor

from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from ..core.stats import Needs
from .factor import scoring_stats
from .normal import Scaled
from .rounding import nearest, packed
from .stacked import Stacked
from .swap import refined


@final
@solver("keep", paper="arXiv:1506.02626", cost="nothing; with swaps a Gram")
@dataclass(frozen=True)
class Keep(Solver):
    """Survivors keep their value, Ŵ = mask · W; on a grid they take its nearest.

    The mask may be refined by 1-swaps against the layer's error.
    """

    aims: ClassVar[bool] = False

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal, for criteria that need its inverse and for swaps."""

    swaps: int = 0
    """1-swaps a row: a dropped weight comes back, a kept one goes, where that lowers ‖(W − Ŵ)X‖²."""

    bias: bool = False
    """In structured runs: biases make up for the mean of what goes, b + (W − Ŵ)μ (FLAP, arXiv:2312.11983)."""

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return (Needs.GRAM if self.swaps else Needs.NOTHING) | (Needs.SUM if self.bias else Needs.NOTHING)

    def __post_init__(self) -> None:
        if not 0 <= self.damp <= 1 or self.swaps < 0:
            raise ValueError(f"damp {self.damp} must be in [0, 1] and swaps {self.swaps} at least 0")

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        start = perf_counter()
        stats, notes = scoring_stats(problems, self.damp)
        stack = Stacked.of(problems)
        keep = stack.choose(stack.weight, stats)
        if self.swaps:
            scaled = Scaled.of(stack, self.damp)
            _, keep = refined(stack, scaled, scaled.dense, keep, self.swaps)
        solved, extras = stack.weight, None
        if any(problem.grid is not None for problem in problems):
            solved, extras = self._rounded(stack, keep)
        return stack.solutions(solved, keep, perf_counter() - start, notes, extras)

    def _rounded(self, stack: Stacked, keep: Tensor) -> tuple[Tensor, list[Mapping[str, Tensor]]]:
        """Survivors rounded to the nearest values of the Problems' grids, and what is packed of them."""
        solved, extras = stack.weight * keep, []
        for problem, span in zip(stack.problems, stack.spans, strict=True):
            solved[:, span], levels = nearest(problem, solved[:, span])
            extras.append(packed(problem, solved[:, span], levels))
        return solved, extras
