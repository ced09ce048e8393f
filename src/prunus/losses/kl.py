"""The teacher's distribution of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.lesson import Lesson, log_rest
from ..core.registry import loss
from ..core.roles import Loss


@final
@loss("kl", paper="arXiv:1503.02531", cost="the teacher's pass, once: its likeliest tokens are kept on disk")
@dataclass(frozen=True)
class Divergence(Loss):
    """T²·KL(teacher ‖ student) of softmax(z/T), a token; all but the teacher's likeliest tokens count as one.

    Splitting what is counted as one could only raise it, so it is a lower bound, and exact where ``top`` is the vocabulary.
    """

    needs_teacher: ClassVar[bool] = True

    temperature: float = 1.0
    """T: above 1 unlikely tokens count for more."""
    top: int = 128
    """The teacher's likeliest tokens that are told apart."""
    weight: float = 1.0
    """Factor in the sum of losses."""

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.top < 1:
            raise ValueError(f"temperature {self.temperature:g} must be above 0 and top {self.top} at least 1")

    @property
    def asks(self) -> tuple[int, float]:
        return self.top, self.temperature

    def value(self, lesson: Lesson) -> Tensor:
        top = lesson.top
        if top is None:
            raise AssertionError("the teacher's likeliest tokens are there wherever this loss is")
        logs = (lesson.student.logits.float() / self.temperature).log_softmax(-1).gather(-1, top.ids)
        wanted = top.logs.float()
        parts = (wanted.exp() * (wanted - logs)).sum(-1)
        if top.ids.shape[-1] < lesson.student.logits.shape[-1]:
            rest = top.rest.float()
            parts = parts + rest.exp() * (rest - log_rest(logs))
        return self.weight * self.temperature**2 * torch.mean(parts)
