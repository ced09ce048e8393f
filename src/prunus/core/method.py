"""Method: one choice on every axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import registry
from .roles import Allocator, BlockStage, Criterion, Grid, OutputTarget, Pattern, Solver
from .stats import Needs


@dataclass(frozen=True)
class Method:
    """A criterion, a pattern, an allocator, a target, a solver, maybe a grid, and work on each block, composed."""

    criterion: Criterion
    pattern: Pattern
    allocator: Allocator
    target: OutputTarget
    solver: Solver
    grid: Grid | None = None
    stages: tuple[BlockStage, ...] = ()
    true_sequential: bool = False
    """Whether layers of a block are solved in turn, each on inputs that those before it have had their part in."""
    temper: float = 1.0
    """Power of the Grams that solvers are given; 1: as they were measured."""

    @property
    def needs(self) -> Needs:
        """Every moment that the criterion, the target or the solver asks for."""
        return self.criterion.needs | self.target.needs | self.solver.needs

    @property
    def compared_by(self) -> Criterion:
        """The criterion by whose scores the allocator compares layers."""
        name = self.allocator.scored_by
        return self.criterion if name is None else registry.criterion.make(name)

    @property
    def looks_at_inputs(self) -> bool:
        """Whether calibration windows are run through the model."""
        surveyed = self.allocator.needs_profile and self.compared_by.needs is not Needs.NOTHING
        surveyed = surveyed or self.allocator.needs_trials
        return surveyed or self.needs is not Needs.NOTHING or bool(self.stages)

    @property
    def tunes(self) -> bool:
        """Whether a stage tunes blocks against the dense model."""
        return any(stage.tunes for stage in self.stages)

    @property
    def follows_dense(self) -> bool:
        """Whether the dense model's hidden states are carried along."""
        return self.tunes or Needs.DRIFT in self.needs

    def to_json(self) -> dict[str, Any]:
        """All choices with all their options."""
        return {
            "criterion": registry.criterion.describe(self.criterion),
            "pattern": registry.pattern.describe(self.pattern),
            "allocator": registry.allocator.describe(self.allocator),
            "target": registry.target.describe(self.target),
            "solver": registry.solver.describe(self.solver),
            "grid": registry.grid.describe(self.grid) if self.grid is not None else None,
            "stages": [registry.stage.describe(stage) for stage in self.stages],
            "true_sequential": self.true_sequential,
            "temper": self.temper,
        }
