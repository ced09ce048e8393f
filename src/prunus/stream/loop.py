"""The loop: load block → observe → solve → write → advance, resumable at the block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.journal import Journal
from ..checkpoint.levels import keep_levels
from ..core.plan import Plan, Step
from ..core.problem import Solution
from ..core.progress import Progress, Silent
from ..core.site import Site
from ..core.stats import Needs
from ..models.residual import residual_streams
from ..targets.sparse import Sparse
from .arrange import Arranger
from .coverage import USUAL, Coverage
from .gradients import Gradients
from .heap import return_free_memory, reused_memory
from .in_turn import InTurn
from .records import site_record, stored_levels, summary
from .select import is_table
from .solve_block import BlockSolver, DenseRuns, Kind, given, kind_of
from .sources import CheckpointSource, Source
from .streams import LoadedBlock, Streams
from .trunk import Limits, Trunk

STATE_SECONDS = 60.0
"""The carried state is saved when this long has passed since it was last: a resumed run replays no more than that."""


@dataclass
class PruneLoop:
    """Prunes a Source by a Plan. ``windows [samples seqlen]`` are the calibration tokens, None for methods without."""

    source: Source
    plan: Plan
    windows: Tensor | None
    journal: Journal | None = None
    batch_tokens: int = 4096
    state_budget: int = 2 << 30
    gram_budget: int = 4 << 30
    coverage: Coverage = USUAL
    gradients: Gradients | None = None
    progress: Progress = field(default_factory=Silent)
    solver: BlockSolver = field(init=False)
    rounder: BlockSolver = field(init=False)
    arranger: Arranger = field(init=False)
    in_turn: InTurn = field(init=False)
    _streams: dict[Kind, dict[str, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        method = self.plan.method
        first = replace(method, grid=None) if method.tunes else method  # stages tune weights that no grid binds yet
        own = self.gradients.of if self.gradients is not None else (lambda site: {})
        self.arranger = Arranger(method.stages)
        self.solver = BlockSolver(first, self.source.matrix, self.gram_budget, self.coverage, own, self.arranger.arranged)
        self.in_turn = InTurn(self.source, self.solver, self.arranger)
        again = replace(method, target=Sparse())  # what was tuned aims at the dense model's output already
        policy = "magnitude" if self.coverage.policy == "dense" else self.coverage.policy  # what is dense, masks say now
        coverage = self.coverage._replace(policy=policy)
        self.rounder = BlockSolver(again, self.source.matrix, self.gram_budget, coverage)

    def run(self, done: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Prune every block that is not ``done`` yet, then what is outside them; one record a Site."""
        results = [record for entry in done for record in entry["sites"]]
        total = len(self.source.blocks) + (1 if self._steps(None) else 0)
        if len(done) == total:
            return results
        try:
            with reused_memory():
                results += self._run(done, total)
        except BaseException:
            with suppress(Exception):  # what made the run fail is what its reader must see
                self.source.settle()
            raise
        return results

    def _run(self, done: Sequence[dict[str, Any]], total: int) -> list[dict[str, Any]]:
        if self.gradients is not None:
            self.gradients.collect()
        streams = self._start(done)
        self.progress.start("Pruning", total)
        for _ in done:
            self.progress.step("done before")
        results: list[dict[str, Any]] = []
        saved, lap = monotonic(), perf_counter()
        for index in range(len(done), total):
            solutions = self._solve(index, streams)
            weights = {solution.site: solution.weight for solution in solutions}
            records = [site_record(solution, self.plan.method.grid, perf_counter() - lap) for solution in solutions]
            lap = perf_counter()
            self.source.put(weights)
            self.source.keep(weights, partial(self._mark, index, records, stored_levels(solutions, self.plan.method.grid)))
            if index < len(self.source.blocks):
                self._advance(index, streams)
            if streams is not None and self.journal is not None and monotonic() - saved > STATE_SECONDS:
                self.source.settle()  # states of a block that is not marked would be of no use
                streams.save(index)
                saved = monotonic()
            results += records
            self.progress.step(summary(records))
        self.source.settle()
        if streams is not None:
            streams.close()
        return results

    def _steps(self, block: int | None) -> list[Step]:
        return [step for step in self.plan.steps if step.site.block == block]

    @torch.no_grad()
    def _solve(self, index: int, streams: Streams | None) -> list[Solution]:
        """The Solutions of a block, or of what is outside the blocks, in the Plan's order."""
        if index == len(self.source.blocks):
            return self._solve_outside(streams.pruned if streams is not None else None)
        block, steps = self.source.load(index), self._steps(index)
        prefix = self.source.prefix(index)
        forward = dense = None
        if streams is not None:
            forward = partial(streams.pruned.runs, block, index)
            sites = [step.site for step in steps]

            def run() -> Tensor:
                return streams.pruned.run(block, index, 0).hidden

            if streams.dense is not None and any(self._drifts(site) for site in sites):
                dense = DenseRuns(partial(streams.dense.steps, block, index), self._residual_streams(block, sites, run))
            self.arranger.begin(block, steps, run, streams.pruned.shares_state)
        if streams is not None and steps and self.plan.method.true_sequential:
            solutions = self.in_turn.solve(index, steps, streams.pruned, dense)
        else:
            solutions = self.solver.solve(block, prefix, steps, forward, dense)
        solutions = self.arranger.folded(solutions)
        if streams is not None and streams.dense is not None:
            if dense is not None:
                streams.dense.turn()
            else:
                streams.dense.advance(block, index)
            loaded = LoadedBlock(self.source, streams.pruned, streams.dense, index)
            solutions = self._refine(loaded, solutions)
            if self.plan.method.tunes and self.plan.method.grid is not None and solutions:
                masks = {name: solution.mask for name, solution in solutions.items()}
                rounded = self.rounder.solve(block, prefix, steps, forward, masks=given(masks))
                solutions = self._judged(loaded, solutions, rounded)
        return [solutions[step.site.name] for step in steps]

    def _drifts(self, site: Site) -> bool:
        """Whether a Site's input is set beside the dense model's."""
        return Needs.DRIFT in self.plan.method.needs and not site.layout.stacked

    def _residual_streams(self, block: nn.Module, sites: Sequence[Site], run: Callable[[], Tensor]) -> dict[str, str]:
        """Those of the block; they are found once for all blocks of a kind."""
        kind = kind_of(block, sites)
        if kind not in self._streams:
            self._streams[kind] = residual_streams(block, sites, run)
        return self._streams[kind]

    def _refine(self, block: LoadedBlock, solutions: dict[str, Solution]) -> dict[str, Solution]:
        """The Solutions after every stage, and in the block; a block without any is left alone."""
        for stage in [stage for stage in self.plan.method.stages if stage.tunes and solutions]:
            self.source.put({solution.site: solution.weight for solution in solutions.values()})
            solutions = stage.apply(block, solutions)
        return solutions

    def _judged(self, block: LoadedBlock, tuned: dict[str, Solution], rounded: dict[str, Solution]) -> dict[str, Solution]:
        """Tuned weights after they were rounded to a grid, with the error that the block then has."""
        self.source.put({solution.site: solution.weight for solution in rounded.values()})
        error = block.error()
        judged = {}
        for name, solution in rounded.items():
            before = tuned[name]
            notes, extra = (*before.notes, *solution.notes), {**before.extra, **solution.extra}
            judged[name] = replace(solution, lost=error, total=1.0, error_of="block", notes=notes, extra=extra)
        return judged

    def _solve_outside(self, trunk: Trunk | None) -> list[Solution]:
        """Embeddings and head, where they were asked for; the head sees what comes out of the pruned blocks."""
        solutions: dict[str, Solution] = {}
        for seen in (True, False):
            steps = [step for step in self._steps(None) if is_table(self.source, step.site) is not seen]
            forward = trunk.head_runs if trunk is not None and seen else None
            if steps:
                solutions |= self.solver.solve(self.source.model, "", steps, forward)
        return [solutions[step.site.name] for step in self._steps(None)]

    def _advance(self, index: int, streams: Streams | None) -> None:
        """Take the state through the pruned block, while the next one is read."""
        self.source.expect(index + 1)
        return_free_memory()
        if streams is not None and self._is_needed_after(index):
            streams.pruned.advance(self.source.blocks[index], index)
        self.source.release(index)
        return_free_memory()

    def _is_needed_after(self, index: int) -> bool:
        """Whether anything looks at what comes out of this block."""
        return index + 1 < len(self.source.blocks) or bool(self._steps(None))

    def _start(self, done: Sequence[dict[str, Any]]) -> Streams | None:
        """The hidden states, taken to where the finished blocks end: from saved ones, replaying what came after them."""
        if self.windows is None:
            return None
        folder = self.journal.folder if self.journal is not None else None
        method = self.plan.method
        tokens = min([self.batch_tokens, *(stage.batch_tokens for stage in method.stages)])
        limits = Limits(tokens, self.state_budget)
        streams = Streams(self.source, self.windows, limits, folder, with_dense=method.follows_dense)
        streams.replay(streams.start(len(done)), len(done), self._replay, self.progress)
        return streams

    def _replay(self, index: int, streams: Streams) -> None:
        source = self.source
        if not isinstance(source, CheckpointSource) or source.writer is None:
            raise TypeError("only a run from disk to disk can be resumed")
        writer = source.writer
        pruned = source.disk_names([step.site for step in self._steps(index)])
        if streams.dense is not None:
            streams.dense.advance(source.load(index), index)
        source.read_from(lambda name: writer.read(name) if name in pruned else source.checkpoint.read(name))
        block = source.load(index)
        source.read_from(None)
        if self._is_needed_after(index):
            streams.pruned.advance(block, index)
        source.release(index)

    def _mark(self, index: int, records: list[dict[str, Any]], levels: Mapping[str, Tensor]) -> None:
        if self.journal is None:
            return
        if self.plan.method.grid is not None:
            keep_levels(self.journal.folder, index, levels)
        self.journal.mark({"block": index, "sites": records})
