"""EvoPress: mixtures of levels, bred by swapping them between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isinf
from random import Random
from typing import ClassVar, final

from ..core.errors import NumericalError
from ..core.registry import allocator
from ..core.roles import Allocator, Evaluate, Profile
from ..core.site import Site
from .levels import around

Candidate = dict[str, float]


@final
@allocator("evolve", paper="arXiv:2410.14649", cost="every layer solved at every level, then some 20k tokens a generation")
@dataclass(frozen=True)
class Evolve(Allocator):
    """EvoPress, level-swap evolution: a child is one to three swaps of a level between layers of one size (sec. 3).

    Children are tried against the dense model on few tokens, the better half of those on more, the best two and their
    parent on most; the one of the smallest KL is the next parent. Each round gets a third of a generation's ``tokens``.
    """

    needs_profile: ClassVar[bool] = True
    needs_trials: ClassVar[bool] = True
    scored_by: ClassVar[str | None] = "magnitude"

    generations: int = 40
    """How many times a parent is replaced."""

    offspring: int = 12
    """Children of a generation."""

    tokens: int = 20_000
    """Tokens run in a generation, over all its candidates."""

    step: float = 0.05
    """Sparsity between two levels (of N:M: one N)."""

    spread: int = 4
    """Levels on either side of the target (of N:M: every N)."""

    seed: int = 0
    """Seed of the swaps."""

    def __post_init__(self) -> None:
        if min(self.generations, self.tokens, self.spread) < 1 or self.offspring < 4 or not 0 < self.step < 1:
            raise ValueError(
                f"generations {self.generations}, tokens {self.tokens} and spread {self.spread} must be at least 1, "
                f"offspring {self.offspring} at least 4, step {self.step} in (0, 1)"
            )

    def levels(self, target: float) -> tuple[float, ...]:
        return around(target, self.step, self.spread)

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        if profile is None or profile.evaluate is None:
            raise ValueError("the evolve allocator needs trials of every level")
        levels, chance = profile.levels, Random(self.seed)
        parent = {site.name: min(levels, key=lambda level: abs(level - target)) for site in sites}
        least = inf
        for _ in range(self.generations):
            children = [self._child(parent, sites, levels, chance) for _ in range(self.offspring)]
            half, _ = _best(children, profile.evaluate, self.tokens // 3, len(children) // 2)
            two, _ = _best(half, profile.evaluate, self.tokens // 3, 2)
            (parent,), least = _best([parent, *two], profile.evaluate, self.tokens // 3, 1)
        if isinf(least):
            raise NumericalError(f"every candidate overflows at {target:.1%} of zeros. With float16 try --dtype float32.")
        return parent

    @staticmethod
    def _child(parent: Candidate, sites: Sequence[Site], levels: Sequence[float], chance: Random) -> Candidate:
        """The parent after one to three level swaps, each between two layers of the same number of weights."""
        child = dict(parent)
        for _ in range(min(chance.randint(1, 3), chance.randint(1, 3))):
            lower = [site for site in sites if child[site.name] > levels[0]]
            chance.shuffle(lower)
            for one in lower:
                others = [s for s in sites if s.numel == one.numel and s != one and child[s.name] < levels[-1]]
                if others:
                    other = chance.choice(others)
                    child[one.name] = levels[levels.index(child[one.name]) - 1]
                    child[other.name] = levels[levels.index(child[other.name]) + 1]
                    break
        return child


def _best(candidates: Sequence[Candidate], evaluate: Evaluate, tokens: int, count: int) -> tuple[list[Candidate], float]:
    """The ``count`` candidates of the smallest KL, and that KL, with ``tokens`` to run in all; earlier ones win ties."""
    fitness = evaluate(candidates, max(1, tokens // len(candidates)))
    order = sorted(range(len(candidates)), key=lambda number: (fitness[number], number))
    return [candidates[number] for number in order[:count]], fitness[order[0]]
