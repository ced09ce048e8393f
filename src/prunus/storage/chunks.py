"""Streams of numbers, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_AT_ONCE = 1 << 20
"""Weights of a mask that are looked through at a time."""


def places_of(held: Tensor) -> Iterator[Tensor]:
    """Where a mask ``[rows cols]`` holds values, in the matrix row after row, some at a time."""
    for number, part in enumerate(held.flatten().split(_AT_ONCE)):
        yield part.nonzero()[:, 0] + number * _AT_ONCE


def in_chunks(tensors: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same numbers, ``size`` at a time.

    >>> [chunk.tolist() for chunk in in_chunks([torch.arange(3), torch.arange(4)], 2)]
    [[0, 1], [2, 0], [1, 2], [3]]
    """
    waiting = torch.empty(0, dtype=torch.int64)
    for tensor in tensors:
        waiting = torch.cat([waiting, tensor]) if len(waiting) else tensor
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    if len(waiting):
        yield waiting
