"""RigL: the rigged lottery."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import schedule
from ..core.schedule import Schedule, check_times


@final
@schedule("rigl", paper="arXiv:1911.11134", cost="a pass over all weights and gradients every so many steps")
@dataclass(frozen=True)
class RigL(Schedule):
    """Every ΔT steps the smallest live weights of a layer die, and those grow whose gradient is largest (alg. 1).

    The share is α/2 · (1 + cos(πt/T_end)). What grows begins at zero, without a past in the optimizer.

    >>> [round(RigL(end=1.0).exchanged(t, 100), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    allocation: ClassVar[str] = "erk"
    exchanges: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True

    alpha: float = 0.3
    """Of live weights, how many die at first."""

    end: float = 0.75
    """Behind this share of training masks stay as they are."""

    every: int = 100
    """ΔT: steps between two exchanges."""

    def __post_init__(self) -> None:
        check_times(0.0, self.end, self.every)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha {self.alpha} must be between 0 and 1")

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 and step < self.end * steps

    def exchanged(self, step: int, steps: int) -> float:
        return self.alpha / 2 * (1 + math.cos(math.pi * min(1.0, step / (self.end * steps))))

    def dense_gradients(self) -> float:
        return self.end / self.every

    def growth(self, gradient: Tensor | None, mask: Tensor, chance: torch.Generator) -> Tensor:
        if gradient is None:
            raise AssertionError("the gradients of dropped weights are kept where they are needed")
        return gradient.abs()
