"""Which test images networks told rightly, and how sure that makes their accuracies and what lies between two of them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from ..measure.intervals import Interval, change_interval, mean_interval, share_interval

RIGHT = "right"
"""The key of a result that has them."""


def bits_of(right: Tensor | None) -> str | None:
    """Yes and no of every image as text: a bit each, the first the highest of its byte, in base64."""
    return None if right is None else b64encode(np.packbits(right.numpy()).tobytes()).decode("ascii")


def accuracy_interval(results: Sequence[Mapping[str, Any]], tests: int) -> dict[str, Any] | None:
    """Of the accuracy of networks, one for each seed, in per cent; by the images, for the networks as they are."""
    told = _told(results, tests)
    if told is None:
        return None
    if len(told) == 1:
        return _plain(share_interval(int(told.sum()), tests), 100)
    return _plain(mean_interval(list(100 * told.mean(axis=0))), 1)


def gap_interval(results: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], tests: int
                 ) -> dict[str, Any] | None:  # fmt: skip
    """Of what networks have more than others of the same seeds on the same images, in points."""
    told, others = _told(results, tests), _told(base, tests)
    if told is None or others is None:
        return None
    gap = told - others
    if len(gap) == 1:
        return _plain(change_interval(int((gap > 0).sum()), int((gap < 0).sum()), tests), 100)
    return _plain(mean_interval(list(100 * gap.mean(axis=0))), 1)


def _told(results: Sequence[Mapping[str, Any]], tests: int) -> np.ndarray | None:
    """1 where a network was right, of every seed and image; None of text."""
    kept = [result.get(RIGHT) for result in results]
    if not all(kept):
        return None
    bits = [np.unpackbits(np.frombuffer(b64decode(str(one)), dtype=np.uint8), count=tests) for one in kept]
    return np.stack(bits).astype(np.float64)


def _plain(interval: Interval | None, unit: float) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {**asdict(interval), "low": unit * interval.low, "high": unit * interval.high}
