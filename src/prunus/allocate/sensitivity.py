"""Measured damage: what each block costs the model at each sparsity, and the cheapest budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import ClassVar, Literal, final

from ..core.errors import NumericalError
from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from .levels import around, by_block, mean_sparsity, met


@final
@allocator(
    "sensitivity", paper="arXiv:2201.13096", cost="every layer solved at every level; a run of each unit at each level"
)
@dataclass(frozen=True)
class Sensitivity(Allocator):
    """KL to the dense model with one unit at a level, all others dense, for every unit and level; then the cheapest budget.

    A unit's damage as a function of its sparsity is replaced by its convex hull from below, and levels at which the model
    overflows are left out. Damages are taken to add up (as in SPDY), so the budget is cheapest where one more zero costs
    the same everywhere: that cost is found by bisection.
    """

    needs_profile: ClassVar[bool] = True
    needs_trials: ClassVar[bool] = True
    scored_by: ClassVar[str | None] = "magnitude"

    unit: Literal["block", "layer"] = "block"
    """What is varied alone: all layers of a block together, or each layer."""

    tokens: int = 2048
    """Tokens of each run."""

    step: float = 0.1
    """Sparsity between two levels (of N:M: one N)."""

    spread: int = 2
    """Levels on either side of the target (of N:M: every N)."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.spread) < 1 or not 0 < self.step < 1:
            raise ValueError(
                f"tokens {self.tokens} and spread {self.spread} must be at least 1, step {self.step} in (0, 1)"
            )

    def levels(self, target: float) -> tuple[float, ...]:
        return around(target, self.step, self.spread)

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        if profile is None or profile.evaluate is None:
            raise ValueError("the sensitivity allocator needs trials of every level")
        units = list(by_block(sites).values()) if self.unit == "block" else [[site] for site in sites]
        dense = {site.name: 0.0 for site in sites}
        paths: dict[str, list[tuple[float, float]]] = {}
        for unit in units:
            candidates = [{**dense, **{site.name: level for site in unit}} for level in profile.levels]
            damages = profile.evaluate(candidates, self.tokens)
            survived = [point for point in zip(profile.levels, damages, strict=True) if isfinite(point[1])]
            hull = lower_hull([(0.0, 0.0), *survived])
            path = marginal(hull, sum(site.numel for site in unit))
            paths |= {site.name: path for site in unit}
        reach = mean_sparsity({name: path[-1][1] for name, path in paths.items()}, sites)
        if reach < target - 1e-6:
            raise NumericalError(
                f"the model overflows beyond {reach:.1%} of zeros, {target:.1%} were asked for. With float16 try "
                "--dtype float32."
            )
        free = {name: _at(path, 0.0) for name, path in paths.items()}
        without = mean_sparsity(free, sites)
        if without > target:  # zeros that cost nothing are enough
            return {name: share * target / without for name, share in free.items()}
        steepest = max(path[-1][0] for path in paths.values())
        return met(target, sites, lambda site, slope: _at(paths[site.name], slope), 0.0, steepest)


def lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The convex hull from below of ``(sparsity, damage)`` in rising order of sparsity, the last of equal ones.

    >>> lower_hull([(0.0, 0.0), (0.25, 2.0), (0.5, 1.0), (0.75, 4.0)])
    [(0.0, 0.0), (0.5, 1.0), (0.75, 4.0)]
    """
    hull: list[tuple[float, float]] = []
    for x, y in dict(points).items():
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def marginal(hull: Sequence[tuple[float, float]], weights: int) -> list[tuple[float, float]]:
    """``(damage a weight, sparsity)`` along a hull, both rising: what one more zero costs where the unit is that sparse.

    Between two points of the hull the slope is taken to be that of the middle, and to change evenly from middle to middle.
    """
    middles = [(max(0.0, _slope(one, two)) / weights, (one[0] + two[0]) / 2) for one, two in pairwise(hull)]
    last = 2 * middles[-1][0] if middles else 0.0
    return [(0.0, hull[0][0]), *middles, (last, hull[-1][0])]


def _slope(one: tuple[float, float], two: tuple[float, float]) -> float:
    return (two[1] - one[1]) / (two[0] - one[0])


def _at(path: Sequence[tuple[float, float]], slope: float) -> float:
    """The sparsity at which one more zero costs ``slope``."""
    for (low, first), (high, second) in pairwise(path):
        if slope < high:
            return first + (second - first) * max(0.0, slope - low) / (high - low)
    return path[-1][1]
