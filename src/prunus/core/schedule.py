"""Schedule: when which weights go, and which come back, while a model is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Schedule(ABC):
    """What happens to masks between steps of an optimizer. Steps are counted from 1, ``steps`` are all of a training run,
    shares are of those; ``target`` is the sparsity in the end."""

    allocation: ClassVar[str] = "global"
    """How sparse each layer is, if nothing else is asked for."""
    needs_steps: ClassVar[bool] = True
    """Whether it has to be known how many steps there are."""
    keeps_dense: ClassVar[bool] = False
    """Whether dropped weights keep their values, behind the zeros that the model has in their place."""
    trains_dropped: ClassVar[bool] = False
    """Whether those values are trained on too, by straight-through gradients."""
    exchanges: ClassVar[bool] = False
    """Whether masks change by weights that die and others that grow, as many in each layer."""
    needs_gradient: ClassVar[bool] = False
    """Whether the gradients of dropped weights are looked at when masks change."""

    def first(self, target: float) -> float:
        """The sparsity before the first step."""
        return target

    @abstractmethod
    def due(self, step: int, steps: int) -> bool:
        """Whether masks change behind this step."""

    def sparsity(self, step: int, steps: int, target: float) -> float:
        """The sparsity behind a step at which masks change."""
        return target

    def moved(self, score: Tensor, weight: Tensor, gradient: Tensor) -> Tensor | None:
        """A score of every weight, brought up to date by a step's gradient; None: scores are not kept, and weights are
        compared by their criterion."""
        return None

    @property
    def keeps_scores(self) -> bool:
        """Whether it has scores of its own, by :meth:`moved`."""
        return type(self).moved is not Schedule.moved

    def decay(self, step: int, steps: int) -> float:
        """How much of a dropped weight's value is added to its gradient."""
        return 0.0

    def exchanged(self, step: int, steps: int) -> float:
        """The share of a layer's live weights that die behind this step, and grow elsewhere."""
        return 0.0

    def dense_gradients(self) -> float:
        """In which share of steps the gradients of dropped weights are looked at."""
        return 1.0 if self.keeps_dense else 0.0

    def growth(self, gradient: Tensor | None, mask: Tensor, chance: torch.Generator) -> Tensor:
        """Scores of a layer's weights by which dropped ones grow, the highest first, in the shape of its ``mask``."""
        raise NotImplementedError


def cubic(step: float, begin: float, end: float, first: float, last: float) -> float:
    """s = s_f + (s_i − s_f)(1 − (t − t₀)/(t₁ − t₀))³, held before t₀ and behind t₁ (arXiv:1710.01878, eq. 1).

    >>> [round(cubic(t, 0, 4, 0.0, 0.8), 3) for t in (0, 2, 4, 9)]
    [0.0, 0.7, 0.8, 0.8]
    """
    if step >= end:
        return last
    left = 1 - max(0.0, step - begin) / (end - begin)
    return last + (first - last) * left**3


def at_times(step: int, begin: int, end: int, every: int) -> bool:
    """Whether a step is the last of ``begin`` to ``end``, or one of every so many before.

    >>> [step for step in range(9) if at_times(step, 2, 7, 3)]
    [2, 5, 7]
    """
    return begin <= step <= end and ((step - begin) % every == 0 or step == end)


def check_times(begin: float, end: float, every: int) -> None:
    """Raise ValueError if these are no shares of training, in order, and a number of steps."""
    if not 0 <= begin < end <= 1 or every < 1:
        raise ValueError(f"begin {begin} and end {end} must be shares of training, 0 ≤ begin < end ≤ 1; every {every} ≥ 1")
