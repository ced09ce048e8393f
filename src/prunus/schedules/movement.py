"""Movement pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import schedule
from ..core.schedule import Schedule, at_times, check_times, cubic


@final
@schedule("movement", paper="arXiv:2005.07683", cost="a score and a kept value a weight, in memory")
@dataclass(frozen=True)
class Movement(Schedule):
    """Weights that move away from zero live: S ← S − W · ∂L/∂W at every step, straight through the mask (sec. 4).

    The gradient is that of the masked weights, the W the value that a weight keeps while it is dropped; it may come back.
    The sparsity rises by a cubic. For fine-tuning what was pretrained.
    """

    allocation: ClassVar[str] = "uniform"
    keeps_dense: ClassVar[bool] = True

    begin: float = 0.1
    """When pruning begins, as a share of training."""

    end: float = 0.75
    """When the target is reached."""

    every: int = 20
    """Steps between two choices of masks."""

    def __post_init__(self) -> None:
        check_times(self.begin, self.end, self.every)

    def first(self, target: float) -> float:
        return 0.0

    def due(self, step: int, steps: int) -> bool:
        begin, end = round(self.begin * steps), max(1, round(self.end * steps))
        return at_times(step, begin, end, self.every) or (step > end and (step - end) % self.every == 0)

    def sparsity(self, step: int, steps: int, target: float) -> float:
        return cubic(step, self.begin * steps, max(1, round(self.end * steps)), 0.0, target)

    def moved(self, score: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return score.addcmul_(weight, gradient, value=-1)
