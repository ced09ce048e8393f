"""SR-STE: N:M sparse training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from ..core.registry import schedule
from ..core.schedule import Schedule, at_times, check_times


@final
@schedule("srste", paper="arXiv:2102.04010", cost="a kept value a weight; masks chosen anew at every step")
@dataclass(frozen=True)
class SRSTE(Schedule):
    """The largest weights live, chosen anew at every step (sparse-refined straight-through estimator).

    All are trained by the gradient at the masked ones, and dropped ones shrink: g(W̃) + λ(1 − mask) ⊙ W (eq. 5).

    Made for N:M (``sparsity="2:4"``) from scratch; works for any pattern.
    """

    allocation: ClassVar[str] = "uniform"
    keeps_dense: ClassVar[bool] = True
    trains_dropped: ClassVar[bool] = True

    weight: float = 2e-4
    """λ: how fast dropped weights shrink."""

    begin: float = 0.0
    """Before this share of training all weights live."""

    freeze: float = 1.0
    """Behind this share of training masks stay as they are."""

    every: int = 1
    """Steps between two choices of masks."""

    def __post_init__(self) -> None:
        check_times(self.begin, self.freeze, self.every)
        if self.weight < 0:
            raise ValueError(f"weight {self.weight} must be at least 0")

    def first(self, target: float) -> float:
        return target if self.begin == 0 else 0.0

    def due(self, step: int, steps: int) -> bool:
        return at_times(step, math.ceil(self.begin * steps), math.floor(self.freeze * steps), self.every)

    def decay(self, step: int, steps: int) -> float:
        return self.weight
