"""SET: sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import schedule
from ..core.schedule import Schedule, check_times


@final
@schedule("set", paper="arXiv:1707.04780", cost="a pass over all weights every so many steps")
@dataclass(frozen=True)
class Set(Schedule):
    """Every so many steps the smallest share of a layer's live weights dies, and as many grow at random (SET).

    It begins with the pattern of chance that ``criterion="random"`` gives; what grows begins at zero.
    """

    allocation: ClassVar[str] = "erk"
    exchanges: ClassVar[bool] = True

    share: float = 0.3
    """ζ: of live weights, how many die."""

    end: float = 0.75
    """Behind this share of training masks stay as they are."""

    every: int = 100
    """Steps between two exchanges."""

    def __post_init__(self) -> None:
        check_times(0.0, self.end, self.every)
        if not 0 < self.share < 1:
            raise ValueError(f"share {self.share} must be between 0 and 1")

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 and step < self.end * steps

    def exchanged(self, step: int, steps: int) -> float:
        return self.share

    def growth(self, gradient: Tensor | None, mask: Tensor, chance: torch.Generator) -> Tensor:
        return torch.rand(mask.shape, generator=chance).to(mask.device)
