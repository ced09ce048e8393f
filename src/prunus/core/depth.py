"""What is known of a model's blocks where some of them are chosen to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

LossWithout = Callable[[Sequence[Sequence[int]]], list[float]]
"""``loss_without(choices)``: for every choice of blocks that are left out, the mean loss a token."""


@dataclass(frozen=True)
class DepthSurvey:
    """Hidden states along a dense model.

    ``cosine [blocks]`` is the mean over tokens of cos(h_in, h_out) of every block; ``last [blocks + 1, windows, width]``
    the hidden states of each window's last token before every block and behind the last one.
    """

    cosine: Tensor
    last: Tensor
    loss_without: LossWithout

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.cosine)
