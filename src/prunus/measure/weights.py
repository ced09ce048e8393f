"""How a model's weights are distributed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 81
_REACH = 4.0
"""How many root mean squares a histogram reaches to both sides."""


@dataclass(frozen=True)
class Histogram:
    """``counts`` of the weights between ``-limit`` and ``limit`` in bins of one width, without those that are zero, which
    are ``zeros``; what is larger is in the outermost bins."""

    limit: float
    counts: list[int]
    zeros: int


def reach_of(matrices: Iterable[Tensor]) -> float:
    """How far a histogram of these reaches."""
    total, count = 0.0, 0
    for matrix in matrices:
        total += float(matrix.float().square().sum(dtype=torch.float64))
        count += matrix.numel()
    return _REACH * (total / count) ** 0.5 if total > 0 else 1.0


def histogram(matrices: Iterable[Tensor], limit: float) -> Histogram:
    """Of all weights of some matrices together."""
    counts, zeros = torch.zeros(BINS), 0
    for matrix in matrices:
        values = matrix.float().flatten()
        zeros += int((values == 0).sum())
        counts += torch.histc(values[values != 0].clamp(-limit, limit), BINS, -limit, limit)
    return Histogram(limit, [int(count) for count in counts.double()], zeros)
