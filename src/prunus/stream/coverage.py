"""Experts that too few tokens reached, and what is done about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..core.mask import Mask
from ..core.problem import Problem, Solution
from ..core.stats import Stats

Policy = Literal["shared", "magnitude", "dense"]
POLICIES: tuple[str, ...] = get_args(Policy)


class Coverage(NamedTuple):
    """Experts that fewer than ``least`` tokens reached are starved and follow the ``policy``.

    ``shared``: their statistics are those of all tokens of their layer, sent through them. ``magnitude``: they are pruned
    by their weights alone, as if X = I. ``dense``: they are left as they are.
    """

    policy: str = "shared"
    least: int = 64

    def starved(self, stats: Stats) -> list[int]:
        """Batch entries with too few tokens; none at all are always too few."""
        return (stats.tokens < max(1, self.least)).nonzero().flatten().tolist()

    def settle(self, stats: Stats, starved: Sequence[int], everyone: Callable[[], Stats]) -> Stats:
        """Stats to solve with; ``everyone()`` observes the starved entries on all tokens. Token counts stay as routed."""
        if not starved:
            return stats
        if self.policy == "shared":
            return _replaced(stats, starved, everyone().moments)
        blank = {}
        for name, moment in stats.moments.items():
            one = torch.zeros_like(moment[:1])
            if self.policy == "magnitude" and name != "sample":  # X = I; left dense, nothing counts
                one = torch.eye(moment.shape[-1]).to(one) if name == "gram" else torch.ones_like(one)
            blank[name] = one.expand(len(starved), *moment.shape[1:])
        return _replaced(stats, starved, blank)

    def left(self, starved: Sequence[int]) -> list[int]:
        """Those of the starved entries that are left dense: all or none."""
        return list(starved) if self.policy == "dense" else []


USUAL = Coverage()


def left_dense(problem: Problem, solution: Solution, entries: Sequence[int]) -> Solution:
    """The Solution with some batch entries as they were, kept whole."""
    if not entries:
        return solution
    places = list(entries)
    weight, keep = solution.weight.clone(), solution.mask.keep.clone()
    weight[places], keep[places] = problem.weight[places].to(weight.dtype), True
    return replace(solution, weight=weight, mask=Mask(keep, solution.mask.pattern, tuple(places)))


def _replaced(stats: Stats, entries: Sequence[int], moments: Mapping[str, Tensor]) -> Stats:
    """Stats with some entries' moments replaced, samples padded with rows of zeros to one length."""
    mixed = {}
    for name, moment in stats.moments.items():
        other = moments[name]
        if name == "sample":
            rows = max(moment.shape[1], other.shape[1])
            moment, other = (torch.nn.functional.pad(m, (0, 0, 0, rows - m.shape[1])) for m in (moment, other))
        mixed[name] = moment.clone()
        mixed[name][list(entries)] = other.to(moment)
    return Stats(stats.tokens, mixed)
