"""From a target to a shape: what each lever does to the model is measured, mixtures are foretold from it, the best tried.

The divergence of a shape from the dense model is taken for the sum of what its levers do alone, each known at a few sizes.
Of all shapes that meet the target those foretold to be nearest are cut on trial; the one that is nearest then is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from .levers import Lever

_LEVELS = 3
"""Sizes at which a lever is measured alone."""
FINALISTS = 4
_MOST = 24
"""Choices of a lever that are combined with those of others; the finest lever is moved by its own steps."""
_MIXTURES = 20_000
"""Combinations that are looked at, at most."""
_APART = 0.08
"""Finalists differ by this share of what stays along at least one lever."""

Setting = tuple[int, ...]
"""Of every lever the number of its choice."""


def _some(count: int, most: int) -> Sequence[int]:
    """All of so many choices, or the ``most`` that are evenly spaced, the first and the last among them."""
    return range(count) if count <= most else [round(k * (count - 1) / (most - 1)) for k in range(most)]


@dataclass(frozen=True)
class Damage:
    """What a lever does: ``points`` of the share that goes and the divergence in nats, both rising from (0, 0)."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def through(cls, measured: Mapping[float, float]) -> Damage:
        """From divergences by the share that goes; what falls where it has to rise is raised."""
        points, highest = [], 1e-6
        for gone, kl in sorted(measured.items()):
            highest = max(highest, min(kl, 1e3))
            points.append((gone, highest))
        return cls(tuple(points))

    def at(self, gone: float) -> float:
        """The divergence where the share ``gone`` goes: straight lines between points in logarithms of both.

        From a single point on it rises with the square, and in proportion up to it.

        >>> Damage(((0.1, 0.01), (0.2, 0.04))).at(0.4)
        0.16
        """
        if gone <= 0 or not self.points:
            return 0.0
        if len(self.points) == 1:
            (at, kl), slope = self.points[0], 1.0 if gone < self.points[0][0] else 2.0
        else:
            pairs = list(pairwise(self.points))
            (at, kl), (end, last) = next((pair for pair in pairs if gone <= pair[1][0]), pairs[-1])
            slope = math.log(last / kl) / math.log(end / at)
            if gone < at:
                slope = max(1.0, slope)
        foretold: float = kl * (gone / at) ** slope
        return round(foretold, 9)


@dataclass
class Search:
    """Searches the settings of ``levers``. ``measure(settings, told)`` cuts them on trial and gives their divergences.

    ``given``: whether something is cut in any setting, which does its part of all that is measured.
    """

    levers: Sequence[Lever]
    measure: Callable[[Sequence[Setting], str], list[float]]
    possible: Callable[[Setting], bool]
    given: bool = False
    damages: list[Damage] = field(default_factory=list, init=False)
    measured: dict[Setting, float] = field(default_factory=dict, init=False)

    @property
    def whole(self) -> Setting:
        """Nothing cut."""
        return (0,) * len(self.levers)

    @property
    def finest(self) -> int:
        """The number of the lever with the most choices."""
        return max(range(len(self.levers)), key=lambda k: len(self.levers[k].choices))

    def alone(self, lever: int, choice: int) -> Setting:
        """One lever moved."""
        return tuple(choice if k == lever else 0 for k in range(len(self.levers)))

    def survey(self, reaches: Callable[[Setting], bool]) -> None:
        """Measure each lever alone at a few sizes, down to the first that ``reaches`` the target or its last.

        Where another lever reaches it alone, those that are costly are measured at their first size to begin with, and
        further down only where they could do less damage than that other.
        """
        levels = [self._levels(k, reaches) for k in range(len(self.levers))]
        cheap = [k for k, lever in enumerate(self.levers) if not lever.costly]
        bounded = any(reaches(self.alone(k, levels[k][-1])) for k in cheap)
        first = [n if k in cheap or not bounded else n[:1] for k, n in enumerate(levels)]
        given = [self.whole] if self.given else []
        self._try(given + self._alone(first), "Trying each lever alone")
        self._learn()
        bound = min((kl for one, kl in self.measured.items() if reaches(one)), default=math.inf)
        rest = [[n for n in levels[k] if self._least(k, n) < bound] for k in range(len(self.levers))]
        self._try(self._alone(rest), "Trying levers further")
        self._learn()

    def _levels(self, lever: int, reaches: Callable[[Setting], bool]) -> list[int]:
        """The choices of a lever that are measured, the smallest cut first."""
        last = len(self.levers[lever].choices) - 1
        furthest = next((n for n in range(1, last + 1) if reaches(self.alone(lever, n))), last)
        return sorted({max(1, round(furthest * part / _LEVELS)) for part in range(1, _LEVELS + 1)})

    def _alone(self, levels: Sequence[Sequence[int]]) -> list[Setting]:
        """Each lever alone at these choices of its own, where there is such a model."""
        settings = [self.alone(k, n) for k, choices in enumerate(levels) for n in choices]
        return [setting for setting in settings if self.possible(setting)]

    def _learn(self) -> None:
        self.damages = [self._damage(k) for k in range(len(self.levers))]

    def _least(self, lever: int, choice: int) -> float:
        """The least divergence that a lever would have at a choice: that of the smallest cut, which was measured, in
        proportion."""
        (gone, kl), *_ = self.damages[lever].points or ((1.0, 0.0),)
        return self._before + kl * max(1.0, (1 - self.levers[lever].shares[choice]) / gone)

    def _damage(self, lever: int) -> Damage:
        shares = self.levers[lever].shares
        own = {one: kl for one, kl in self.measured.items() if one[lever] and self.alone(lever, one[lever]) == one}
        return Damage.through({1 - shares[one[lever]]: kl - self._before for one, kl in own.items()})

    @property
    def _before(self) -> float:
        """The divergence of what is cut in any case."""
        return self.measured.get(self.whole, 0.0)

    def foretold(self, setting: Setting) -> float:
        """The divergence that a setting is expected to have; infinite where a lever is moved that was never measured."""
        total = self._before
        for damage, lever, choice in zip(self.damages, self.levers, setting, strict=True):
            if choice and not damage.points:
                return math.inf
            total += damage.at(1 - lever.shares[choice])
        return total

    def fitting(self, meets: Callable[[Setting], bool]) -> Iterator[Setting]:
        """For all choices of the other levers the least that the finest lever has to give for the target to be met."""
        finest = self.finest
        counts = [len(lever.choices) if k != finest else 1 for k, lever in enumerate(self.levers)]
        most = next((n for n in range(_MOST, 2, -1) if math.prod(min(n, count) for count in counts) <= _MIXTURES), 2)
        ranges = [_some(count, most) for count in counts]
        count = len(self.levers[finest].choices)
        for setting in product(*ranges):
            low, high = 0, count
            while low < high:
                middle = (low + high) // 2
                if meets((*setting[:finest], middle, *setting[finest + 1 :])):
                    high = middle
                else:
                    low = middle + 1
            if low < count:
                yield (*setting[:finest], low, *setting[finest + 1 :])

    def finalists(self, meets: Callable[[Setting], bool]) -> list[Setting]:
        """The settings foretold to be best of those that meet the target, apart from each other."""
        found: list[Setting] = []
        for setting in sorted(self.fitting(meets), key=self.foretold):
            if len(found) == FINALISTS or math.isinf(self.foretold(setting)):
                break
            if all(self._apart(setting, other) for other in found) and self.possible(setting):
                found.append(setting)
        return found

    def measure_all(self, finalists: Sequence[Setting]) -> None:
        """Try all of them side by side."""
        self._try(finalists, "Trying the best shapes")

    def choose(self, finalists: Sequence[Setting]) -> Setting:
        """The finalist that was nearest to the dense model when tried."""
        return min(finalists, key=lambda setting: self.measured[setting])

    def _try(self, settings: Sequence[Setting], told: str) -> None:
        new = [setting for setting in dict.fromkeys(settings) if setting not in self.measured]
        if new:
            self.measured.update(zip(new, self.measure(new, told), strict=True))

    def _apart(self, one: Setting, other: Setting) -> bool:
        pairs = zip(self.levers, one, other, strict=True)
        return any(abs(lever.shares[a] - lever.shares[b]) >= _APART for lever, a, b in pairs)

    def sizes(self, setting: Setting) -> dict[str, int]:
        """Sizes by axis, and ``layers``."""
        found: dict[str, int] = {}
        for lever, choice in zip(self.levers, setting, strict=True):
            found |= lever.choices[choice]
        return found

    def told(self, setting: Setting) -> dict[str, Any]:
        """A setting that was tried, in plain values."""
        return {"sizes": self.sizes(setting), "foretold": self.foretold(setting), "kl": self.measured[setting]}
