"""Leave the survivors as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import final

from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from ..core.stats import Needs
from .factor import inverse_factor


@final
@solver("keep", paper="arXiv:1506.02626", cost="nothing")
@dataclass(frozen=True)
class Keep(Solver):
    """Survivors keep their value: Ŵ = mask · W."""

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal, for criteria that need its inverse."""

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        stats = problems[0].stats
        notes: tuple[str, ...] = ()
        if any(Needs.GRAM in problem.criterion.needs for problem in problems):
            factor = inverse_factor(stats, self.damp, problems[0].site.name)
            stats, notes = stats.with_moments(inverse_diagonal=factor.inverse_diagonal()), factor.notes
        solutions = []
        for problem in problems:
            start = perf_counter()
            keep = problem.select(problem.weight, stats, 0, problem.site.cols)
            solutions.append(Solution.of(problem, problem.weight, keep, perf_counter() - start, notes))
        return solutions
