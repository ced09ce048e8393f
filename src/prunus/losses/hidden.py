"""The teacher's hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.lesson import Lesson
from ..core.registry import loss
from ..core.roles import Loss


@final
@loss("hidden", paper="arXiv:2407.14679", cost="the teacher runs beside the student")
@dataclass(frozen=True)
class Hidden(Loss):
    """‖h_student − h_teacher‖² / ‖h_teacher‖² behind some blocks, on the channels that the student still has."""

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    same_channels: ClassVar[bool] = True

    layers: int = 4
    """Behind how many blocks, evenly spaced, the last among them."""
    weight: float = 1.0
    """Factor in the sum of losses."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers {self.layers} must be at least 1")

    def value(self, lesson: Lesson) -> Tensor:
        found = [
            (mine - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)
            for mine, theirs in lesson.hidden(self.layers)
        ]
        return self.weight * torch.stack(found).mean()
