"""Inputs in a new order: chosen before a Site is solved, folded into the layers before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ..core.mask import Mask
from ..core.plan import Step
from ..core.problem import Problem, Solution
from ..core.roles import BlockStage
from ..models.folds import Fold, folds_of_block, holds, in_a_list
from .solve_block import Kind, kind_of


@dataclass
class Arranger:
    """Asks ``stages`` for an order of every Site's inputs that folds, block by block."""

    stages: Sequence[BlockStage]
    _held: dict[tuple[Kind, Hashable], bool] = field(default_factory=dict, init=False)
    _folds: dict[str, Fold] = field(default_factory=dict, init=False)
    _orders: dict[str, Tensor] = field(default_factory=dict, init=False)

    def begin(self, block: nn.Module, steps: Sequence[Step], run: Callable[[], Tensor], shares_state: bool) -> None:
        """Find the folds of a block that is about to be solved; each is tried out in the first block of a kind that has it.

        One of an expert in a list is tried out in every block, since no token may come by. Where blocks share state, others
        may read this one's values, so that those stay as they are. Inputs of a layer without N:M have no order to choose.
        """
        self._folds, self._orders = {}, {}
        if not any(stage.arranges for stage in self.stages):
            return
        patterns = {step.site.name: step.pattern for step in steps}
        sites = [step.site for step in steps]
        kind = kind_of(block, sites)
        for fold in folds_of_block(block, sites, of_values=not shares_state):
            if patterns[fold.consumer.name].own_sparsity is None:
                continue
            key = (kind, fold.geometry)
            if key not in self._held or in_a_list(block, fold):
                self._held[key] = holds(block, fold, run)
            if self._held[key] and all(patterns[site.name].rows_may_move for site in fold.producers):
                self._folds[fold.consumer.name] = fold

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
            consumer = found[name]
            found[name] = replace(consumer, extra={**consumer.extra, "order": order})
        return found


_BY_ROW = ("codes", "scales", "zeros")
"""What a Solution carries for each of its rows."""
