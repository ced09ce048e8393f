"""The loop for modules in memory: observe a block's inputs → solve → put the weights back, block after block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from ..core.mask import Mask
from ..core.method import Method
from ..core.plan import Plan, Step
from ..core.progress import Progress, Silent
from ..core.site import Site
from ..core.stats import Needs
from ..observe.applied import AppliedObserver
from ..observe.observer import Observed
from ..observe.waves import Wave
from .heap import return_free_memory, reused_memory
from .module_source import ModuleSource, Run
from .records import site_record, summary
from .solve_block import BlockSolver, Call, DenseRuns, Kind


def observe_module(model: nn.Module, _prefix: str, wave: Wave, needs: Needs, runs: Iterable[Call],
                   dense: DenseRuns | None = None, _calls: dict[Kind, int] | None = None) -> list[Observed]:  # fmt: skip
    """Sites that share an input and their Stats, from one pass of a whole model over its batches.

    Raises:
        UnsupportedModelError: if a Site is not reached.
    """
    weights = {model.get_parameter(site.parameter): site for site in wave.sites}
    observer = AppliedObserver(weights, needs, wave.experts)
    beside: Iterator[Call | None] = iter(dense.runs()) if dense is not None else iter(lambda: None, 0)
    for run, other in zip(runs, beside, strict=False):
        observer.watch(run, other)
    found = observer.result()
    reached = {site for sites, _ in found for site in sites}
    missed = [site.name for site in wave.sites if site not in reached]
    if missed:
        raise UnsupportedModelError(f"{missed[0]}: its layer did not run on the data ({len(missed)} such). Exclude it.")
    return [Observed(sites, stats, False) for sites, stats in found]


Own = Mapping[str, Mapping[str, Tensor]]
"""Moments of weights themselves by Site name, as ``{"grad": [batch rows cols]}``."""


def module_solver(source: ModuleSource, method: Method, budget: int, own: Own) -> BlockSolver:
    """A solver of a module's Sites."""
    return BlockSolver(method, source.matrix, budget, own=lambda site: own.get(site.name, {}), look=observe_module)


@dataclass
class ModuleLoop:
    """Prunes a module in place by a Plan. ``runs`` run the model on a batch each, none where no inputs are looked at."""

    source: ModuleSource
    plan: Plan
    runs: Sequence[Run]
    budget: int = 4 << 30
    own: Own = field(default_factory=dict)
    progress: Progress = field(default_factory=Silent)
    masks: dict[str, Mask] = field(default_factory=dict, init=False)
    """By Site name."""

    def run(self) -> list[dict[str, Any]]:
        """One record a Site, in the order in which they run."""
        solver = module_solver(self.source, self.plan.method, self.budget, self.own)
        groups = self._groups()
        self.progress.start("Pruning", len(groups))
        records: list[dict[str, Any]] = []
        with reused_memory(), torch.no_grad():
            for steps in groups:
                lap = perf_counter()
                solutions = solver.solve(self.source.model, "", steps, self._forward(), self._dense())
                self.source.put({s.site: s.weight for s in solutions.values()})
                self.masks |= {name: solution.mask for name, solution in solutions.items()}
                found = [site_record(s, self.plan.method.grid, perf_counter() - lap) for s in solutions.values()]
                records += found
                return_free_memory()
                self.progress.step(summary(found))
        return records

    def _groups(self) -> list[list[Step]]:
        """Steps that are observed and solved together: a block's, or in turn those that are handed the same tensor."""
        steps = {step.site.name: step for step in self.plan.steps}
        if self.plan.method.true_sequential and self.runs:
            kinds: list[list[Site]] = self.source.turns
        else:
            kinds = [found.sites for found in self.source.found]
        inside = [[steps[site.name] for site in sites if site.name in steps] for sites in kinds]
        outside = [step for step in self.plan.steps if step.site.block is None]
        return [group for group in (*inside, outside) if group]

    def _forward(self) -> Any:
        return (lambda: self.runs) if self.runs else None

    def _dense(self) -> DenseRuns | None:
        """The model as it came beside what it is now, where the method aims at that."""
        if not self.runs or Needs.DRIFT not in self.plan.method.needs:
            return None
        return DenseRuns(lambda: [partial(self._run_dense, run) for run in self.runs], {})

    def _run_dense(self, run: Run) -> None:
        with self.source.dense():
            run()
