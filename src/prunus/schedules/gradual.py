"""Gradual magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..core.registry import schedule
from ..core.schedule import Schedule, at_times, check_times, cubic


@final
@schedule("gradual", paper="arXiv:1710.01878", cost="a pass over all weights every so many steps")
@dataclass(frozen=True)
class Gradual(Schedule):
    """Every so many steps the smallest weights go, up to a sparsity that rises by a cubic (Zhu and Gupta, eq. 1).

    >>> [round(Gradual(begin=0, end=1).sparsity(t, 4, 0.8), 3) for t in (0, 2, 4)]
    [0.0, 0.7, 0.8]
    """

    initial: float = 0.0
    """Sparsity at which it begins."""

    begin: float = 0.0
    """When it begins, as a share of training."""

    end: float = 0.75
    """When it has reached the target; what is left of training goes on with the masks it has."""

    every: int = 100
    """Steps between two changes."""

    def __post_init__(self) -> None:
        check_times(self.begin, self.end, self.every)
        if not 0 <= self.initial < 1:
            raise ValueError(f"initial {self.initial} must be a sparsity, at least 0 and below 1")

    def first(self, target: float) -> float:
        return min(self.initial, target)

    def due(self, step: int, steps: int) -> bool:
        return at_times(step, round(self.begin * steps), max(1, round(self.end * steps)), self.every)

    def sparsity(self, step: int, steps: int, target: float) -> float:
        return cubic(step, self.begin * steps, max(1, round(self.end * steps)), self.first(target), target)
