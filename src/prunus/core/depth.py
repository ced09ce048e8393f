"""What is known of a model's blocks where some of them are chosen to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

LossWithout = Callable[[Sequence[Sequence[int]]], list[float]]
"""``measure(choices)``: for every choice of blocks that are left out, the mean loss a token."""


@dataclass(frozen=True)
class Passage:
    """Hidden states along a dense model.

    ``cosine [blocks]`` is the mean over tokens of cos(h_in, h_out) of every block; ``last [blocks + 1, windows, width]``
    the hidden states of each window's last token before every block and behind the last one.
    """

    cosine: Tensor
    last: Tensor


@dataclass(frozen=True)
class DepthSurvey:
    """Of a model of ``count`` blocks; what is not asked for is not measured: ``run()`` takes text through the dense model,
    ``measure(choices)`` through models that blocks are left out of."""

    count: int
    run: Callable[[], Passage]
    measure: LossWithout
    _known: dict[frozenset[int], float] = field(default_factory=dict)

    @cached_property
    def passage(self) -> Passage:
        """Hidden states along the dense model."""
        return self.run()

    def loss_without(self, choices: Sequence[Sequence[int]]) -> list[float]:
        """For every choice of blocks that are left out the mean loss a token; what was measured before is remembered."""
        new = [choice for choice in choices if frozenset(choice) not in self._known]
        if new:
            self._known.update(zip(map(frozenset, new), self.measure(new), strict=True))
        return [self._known[frozenset(choice)] for choice in choices]
