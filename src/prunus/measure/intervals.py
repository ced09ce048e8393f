"""How sure a measured figure is: confidence intervals of means, of shares, and of differences between paired figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
FEWEST = 5
"""With fewer values nothing is said of their mean: resamples of so few are too often of one value alone."""
_RESAMPLES = 2000
_AT_ONCE = 1 << 22
"""Values that are drawn at once."""


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, where the truth is with a confidence of ``level``."""

    low: float
    high: float
    level: float = LEVEL

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Interval | None:
    """Of the mean that independent ``values [n]`` are drawn around; None for fewer than :data:`FEWEST`.

    The studentised bootstrap (Efron and Tibshirani 1993, sec. 12.5): with t* = (m* − m) / s* of 2,000 resamples, the
    interval is m − s · t*, between its quantiles; m is a mean, s its standard error. It follows skewed values, for which a
    symmetric interval lies too low.

    Raises:
        ValueError: if a value is not finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("only finite values have a mean with an interval")
    n = len(found)
    if n < FEWEST:
        return None
    mean, error = found.mean(), found.std(ddof=1) / math.sqrt(n)
    means, errors = _resampled(found, seed)
    moved = errors > 1e-12 * max(abs(mean), error)
    if not moved.any():
        return Interval(float(mean), float(mean), level)
    t = (means[moved] - mean) / errors[moved]
    upper, lower = np.quantile(t, [(1 + level) / 2, (1 - level) / 2])
    return Interval(float(mean - upper * error), float(mean - lower * error), level)


def _resampled(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of resamples, and their standard errors."""
    n, chance = len(values), np.random.default_rng(seed)
    means, errors, rows = [], [], max(1, _AT_ONCE // len(values))
    for begin in range(0, _RESAMPLES, rows):
        drawn = values[chance.integers(n, size=(min(rows, _RESAMPLES - begin), n))]
        means.append(drawn.mean(axis=1))
        errors.append(drawn.std(axis=1, ddof=1) / math.sqrt(n))
    return np.concatenate(means), np.concatenate(errors)


def share_interval(count: int, total: int, level: float = LEVEL) -> Interval:
    """Of the share that ``count`` of ``total`` independent yes-or-no answers are drawn from (Wilson 1927).

    >>> share_interval(0, 10).high < 0.31
    True
    """
    z = _z(level)
    centre = (count + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(count * (total - count) / total + z * z / 4)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(low if count else 0.0, high if count < total else 1.0, level)


def change_interval(better: int, worse: int, total: int, level: float = LEVEL) -> Interval:
    """Of the change of a share between two answerers of the same ``total`` questions, of which the second has ``better``
    right where the first was wrong, and ``worse`` wrong where the first was right (Bonett and Price 2012).

    >>> 0.0 in change_interval(12, 9, 200)
    True
    """
    won, lost = (better + 1) / (total + 2), (worse + 1) / (total + 2)
    half = _z(level) * math.sqrt((won + lost - (won - lost) ** 2) / (total + 2))
    return Interval(max(-1.0, won - lost - half), min(1.0, won - lost + half), level)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
