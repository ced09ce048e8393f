"""Least squares: the best values that survivors can have on the mask that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, Literal, final

import torch

from ..core.matmul import linear
from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from ..core.stats import Needs
from .conjugate import refit
from .exact import exact_refit, shares_support
from .factor import scoring_stats
from .normal import Scaled
from .regrid import finished
from .stacked import Stacked
from .swap import refined


@final
@solver("lstsq", paper="arXiv:2406.07831", cost="a Gram and a product of its size a step; exact: a factorisation a row")
@dataclass(frozen=True)
class LeastSquares(Solver):
    """The criterion chooses the mask from the dense weights, then survivors minimise ‖(W − Ŵ)X‖² on it.

    Row by row that is H_ss ŵ_s = H_s: w with s its survivors. ``pcg`` goes there by preconditioned conjugate gradients, all
    rows at once; ``exact`` factorises H_ss of every row in fp64. Where whole columns go, one factorisation serves all rows.
    """

    needs: ClassVar[Needs] = Needs.GRAM
    copies: ClassVar[float] = 8.5

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal."""

    method: Literal["pcg", "exact"] = "pcg"
    """Conjugate gradients, or a factorisation a row (for small layers, or to check)."""

    steps: int = 30
    """Most conjugate-gradient steps."""

    tolerance: float = 1e-4
    """Residual, relative to the target's, at which they end."""

    swaps: int = 0
    """1-swaps a row by which the mask is refined first, as if survivors kept their values."""

    bias: bool = True
    """In structured runs: biases are free too, so that the weights are fitted on inputs without their mean."""

    def __post_init__(self) -> None:
        if not 0 <= self.damp <= 1 or self.steps < 1 or self.tolerance < 0 or self.swaps < 0:
            raise ValueError(
                f"damp {self.damp} must be in [0, 1], steps {self.steps} at least 1, tolerance {self.tolerance} and "
                f"swaps {self.swaps} at least 0"
            )

    @property
    def products(self) -> int:
        return 2 + self.steps

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        start = perf_counter()
        scores, notes = scoring_stats(problems, self.damp)
        stack = Stacked.of(problems)
        scaled = Scaled.of(stack, self.damp)
        dense = scaled.dense
        start_from, keep = refined(stack, scaled, dense, stack.choose(stack.weight, scores), self.swaps)
        solved = torch.empty_like(dense)
        for k, layer in enumerate(scaled.layers):
            target = linear(dense[k], layer.gram)
            if self.method == "exact" or shares_support(keep[k]):
                solved[k], ridge = exact_refit(target, layer.gram, keep[k], problems[0].site.name)
                notes += (f"{ridge:g} added to a unit diagonal: a Gram of survivors was singular",) if ridge else ()
            else:
                solved[k] = refit(target, layer.gram, keep[k], start_from[k], self.steps, self.tolerance)
        solved /= scaled.scale
        return finished(stack, solved, keep, perf_counter() - start, tuple(dict.fromkeys(notes)), self.damp)
