"""How the teacher's tokens look to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.lesson import Lesson
from ..core.registry import loss
from ..core.roles import Loss


@final
@loss("relations", paper="arXiv:2012.15828", cost="the teacher runs beside the student")
@dataclass(frozen=True)
class Relations(Loss):
    """KL of softmax(h hᵀ/√d) over the tokens of a window, teacher ‖ student: of any width (MiniLMv2's relations).

    Hidden states are scaled to a mean square of 1 first, so that widths compare.
    """

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True

    layers: int = 1
    """Behind how many blocks, evenly spaced, the last among them."""
    weight: float = 1.0
    """Factor in the sum of losses."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers {self.layers} must be at least 1")

    def value(self, lesson: Lesson) -> Tensor:
        found = []
        for mine, theirs in lesson.hidden(self.layers):
            student, teacher = _relations(mine), _relations(theirs)
            found.append((teacher.exp() * (teacher - student)).sum(-1).mean())
        return self.weight * torch.stack(found).mean()


def _relations(hidden: Tensor) -> Tensor:
    """Log-probabilities ``[windows seqlen seqlen]``."""
    scaled = hidden / hidden.square().mean(-1, keepdim=True).clamp_min(1e-12).sqrt()
    logs: Tensor = (scaled @ scaled.mT / scaled.shape[-1] ** 0.5).log_softmax(-1)
    return logs
