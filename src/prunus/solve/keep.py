"""Leave the survivors as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import final

from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from .factor import scoring_stats


@final
@solver("keep", paper="arXiv:1506.02626", cost="nothing")
@dataclass(frozen=True)
class Keep(Solver):
    """Survivors keep their value: Ŵ = mask · W."""

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal, for criteria that need its inverse."""

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        stats, notes = scoring_stats(problems, self.damp)
        solutions = []
        for problem in problems:
            start = perf_counter()
            keep = problem.select(problem.weight, stats, 0, problem.site.cols)
            solutions.append(Solution.of(problem, problem.weight, keep, perf_counter() - start, notes))
        return solutions
