"""Method: one choice on every axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import registry
from .roles import Allocator, Criterion, Pattern, Solver
from .stats import Needs


@dataclass(frozen=True)
class Method:
    """A criterion, a pattern, an allocator and a solver, composed."""

    criterion: Criterion
    pattern: Pattern
    allocator: Allocator
    solver: Solver

    @property
    def needs(self) -> Needs:
        """Every moment that the criterion or the solver asks for."""
        return self.criterion.needs | self.solver.needs

    def to_json(self) -> dict[str, Any]:
        """The four choices with all their options."""
        return {
            "criterion": registry.criterion.describe(self.criterion),
            "pattern": registry.pattern.describe(self.pattern),
            "allocator": registry.allocator.describe(self.allocator),
            "solver": registry.solver.describe(self.solver),
        }
