"""The text itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.lesson import Lesson
from ..core.registry import loss
from ..core.roles import Loss


@final
@loss("ce", paper="arXiv:1506.02626", cost="nothing beside the student's own pass")
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of the next token: plain fine-tuning, as pruned networks have been retrained since Han et al."""

    weight: float = 1.0
    """Factor in the sum of losses."""

    def value(self, lesson: Lesson) -> Tensor:
        return self.weight * lesson.loss_of_tokens()
