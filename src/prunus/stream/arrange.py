"""Inputs in a new order: chosen before a Site is solved, folded into the layers before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ..core.mask import Mask
from ..core.problem import Problem, Solution
from ..core.roles import BlockStage
from ..core.site import Site
from ..models.folds import Fold, folds_of_block
from .solve_block import Kind, kind_of


@dataclass
class Arranger:
    """Asks ``stages`` for an order of every Site's inputs that folds, block by block."""

    stages: Sequence[BlockStage]
    _known: dict[Kind, list[tuple[str, tuple[str, ...], int, int]]] = field(default_factory=dict, init=False)
    _folds: dict[str, Fold] = field(default_factory=dict, init=False)
    _orders: dict[str, Tensor] = field(default_factory=dict, init=False)

    def begin(self, block: nn.Module, sites: Sequence[Site], run: Callable[[], Tensor]) -> None:
        """Find the folds of a block that is about to be solved; they are tried out on the first block of its kind."""
        self._folds, self._orders = {}, {}
        if not any(stage.arranges for stage in self.stages):
            return
        kind = kind_of(block, sites)
        if kind not in self._known:
            found = folds_of_block(block, sites, run)
            self._known[kind] = [
                (fold.consumer.role, tuple(site.role for site in fold.producers), fold.groups, fold.copies)
                for fold in found
            ]
        by_role = {site.role: site for site in sites}
        for consumer, producers, groups, copies in self._known[kind]:
            site = by_role[consumer]
            self._folds[site.name] = Fold(site, tuple(by_role[role] for role in producers), groups, copies)

    def arranged(self, problem: Problem) -> Problem:
        """The Problem with its inputs in the order that a stage wants; as it is where none does, or it does not fold."""
        fold = self._folds.get(problem.site.name)
        if fold is None:
            return problem
        orders = (stage.arrange(problem, fold.groups, fold.copies) for stage in self.stages if stage.arranges)
        order = next((order for order in orders if order is not None), None)
        if order is None:
            return problem
        self._orders[problem.site.name] = order
        return problem.reordered(fold.columns(order))

    def folded(self, solutions: Mapping[str, Solution]) -> dict[str, Solution]:
        """The Solutions with the rows of producers in the order of their consumers' inputs."""
        found = dict(solutions)
        for name, order in self._orders.items():
            fold = self._folds[name]
            for site in fold.producers:
                solution, rows = found[site.name], fold.rows(order)
                mask = Mask(solution.mask.keep[:, rows], solution.mask.pattern, solution.mask.dense)
                extra = {key: value[:, rows] if key in _BY_ROW else value for key, value in solution.extra.items()}
                found[site.name] = replace(solution, weight=solution.weight[:, rows], mask=mask, extra=extra)
        return found


_BY_ROW = ("codes", "scales", "zeros")
"""What a Solution carries for each of its rows."""
