"""The loop of a structured run: load block → observe → choose units → repair → write what stays → advance the masked block.

Everything runs at dense shapes, with zeros where something goes: a masked model computes what the cut one does, and so the
same statistics and solvers serve both. Only what is written is narrowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.journal import Journal
from ..core.errors import CalibrationError
from ..core.mask import PRUNED
from ..core.problem import Solution
from ..core.progress import Progress, Silent
from ..core.stats import Needs
from ..models.residual import residual_streams
from ..stream.coverage import USUAL, Coverage
from ..stream.gradients import Gradients
from ..stream.heap import return_free_memory, reused_memory
from ..stream.records import site_record, summary
from ..stream.solve_block import BlockSolver, DenseRuns, Kind, kind_of
from ..stream.sources import CheckpointSource
from ..stream.streams import Streams
from ..stream.trunk import Limits
from .block_cutter import BlockCutter, Choice
from .chooser import Task
from .cut import Kept
from .entering import scaled_as_before
from .masked_block import MaskedModule, masked_runs
from .output import CutOutput
from .plan import ShrinkPlan

STATE_SECONDS = 60.0
"""The carried state is saved when this long has passed since it was last."""
_FILLED = "the model had been pruned, and the repair fills zeros: cut first and prune then, or leave them by --solver keep"


@dataclass
class ShrinkLoop:
    """Cuts a checkpoint by a plan. ``tasks`` are the couplings to choose units of, by block; ``fixed`` those chosen before.

    ``windows [samples seqlen]`` are the calibration tokens, None where no input is looked at.
    """

    source: CheckpointSource
    plan: ShrinkPlan
    tasks: Mapping[int, Sequence[Task]]
    fixed: Sequence[Kept]
    windows: Tensor | None
    output: CutOutput
    journal: Journal
    limits: Limits
    coverage: Coverage = USUAL
    gradients: Gradients | None = None
    progress: Progress = field(default_factory=Silent)
    logits: Tensor | None = field(default=None, init=False)
    """What the masked model gives for the first window, ``[1 seqlen vocabulary]``, once it has run."""
    rounded: bool = field(default=False, init=False)
    """Whether the embedding was written scaled otherwise, and so rounded to half precision once more."""

    def __post_init__(self) -> None:
        plan = self.plan
        choice = Choice(plan.importance, plan.experts, plan.method)
        self.cutter = BlockCutter(self.source, choice, self.tasks, self.fixed, self.gradients)
        self.solver = BlockSolver(
            plan.method, self.source.matrix, self.limits.budget, self.coverage, self.cutter.own,
            also=plan.importance.needs, biased=self.cutter.biased,
        )  # fmt: skip
        self._streams: dict[Kind, dict[str, str]] = {}
        self._dense_moved = False

    def run(self, done: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Cut every block that is not ``done`` yet, then what is outside them; one record a Site that was repaired."""
        try:
            with reused_memory():
                return self._run(done)
        except BaseException:
            with suppress(Exception):
                self.source.settle()
            raise

    def _run(self, done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        results = [record for entry in done for record in entry["sites"]]
        for entry in done:
            self.cutter.remember(entry["block"], entry["units"])
        total = len(self.source.blocks)
        streams = self._start(done)
        saved = monotonic()
        self.progress.start("Cutting", total + 1)
        for index in range(len(done), total):
            if index not in self.plan.blocks:
                self._pass_over(index, streams)
                self.source.background.later(partial(self.journal.mark, {"block": index, "sites": [], "units": []}))
            else:
                results += self._block(index, streams)
                if streams is not None and monotonic() - saved > STATE_SECONDS:
                    self.source.settle()
                    streams.save(index)
                    saved = monotonic()
            self.progress.step(summary(results[-2:]))
        self.source.settle()
        self._outside(streams)
        if streams is not None:
            streams.close()
        self.progress.step()
        return results

    def _block(self, index: int, streams: Streams | None) -> list[dict[str, Any]]:
        """Choose, repair, write and advance one block."""
        lap = perf_counter()
        module = self.cutter.begin(index, self.source.load(index))
        if any(task.coupling.experts for task in self.tasks.get(index, ())):
            if streams is None:
                raise CalibrationError("experts are chosen by what they give on calibration text: give some.")
            self.cutter.choose_experts(index, module, partial(masked_runs, module, streams.pruned, index))
        solutions = {name: _telling_of_zeros(one, module) for name, one in self._solve(index, module, streams).items()}
        cut = self.cutter.finish(index, module, solutions)
        records = [site_record(solution, None, perf_counter() - lap) for solution in solutions.values()]
        units = [self.cutter.chooser.kept(task).tolist() for task in self.tasks.get(index, ())]
        tensors = {name: value.clone() for name, value in self.output.narrowed(module, cut).items()}
        mark = partial(self.journal.mark, {"block": index, "sites": records, "units": units})
        self.source.background.later(self.output.job(tensors, mark))
        self._advance(index, module, streams)
        return records

    def _solve(self, index: int, module: MaskedModule, streams: Streams | None) -> dict[str, Solution]:
        """The repaired weights of everything in a block that reads what goes, by Site name."""
        steps = self.cutter.steps(index)
        self._dense_moved = False
        if not steps:
            return {}
        forward = dense = None
        if streams is not None:
            trunk = streams.pruned
            forward = partial(masked_runs, module, trunk, index)
            sites = [step.site for step in steps]
            if streams.dense is not None and any(not site.layout.stacked for site in sites):
                kind = kind_of(module.module, sites)
                if kind not in self._streams and Needs.DRIFT in self.plan.method.needs:
                    self._streams[kind] = residual_streams(
                        module.module, sites, lambda: trunk.run(module.module, index, 0).hidden
                    )
                dense = DenseRuns(partial(streams.dense.steps, module.module, index), self._streams.get(kind, {}))
        solutions = self.solver.solve(module.module, module.prefix, steps, forward, dense, self.cutter.chooser.mask)
        if dense is not None and streams is not None and streams.dense is not None:
            streams.dense.turn()
            self._dense_moved = True
        return solutions

    def _pass_over(self, index: int, streams: Streams | None) -> None:
        """A block that goes: the dense model runs it, the smaller one does not."""
        if streams is not None and streams.dense is not None:
            streams.dense.advance(self.source.load(index), index)
            self.source.release(index)

    def _advance(self, index: int, module: MaskedModule, streams: Streams | None) -> None:
        self.source.expect(index + 1)
        return_free_memory()
        if streams is not None:
            if streams.dense is not None and not self._dense_moved:
                streams.dense.advance(module.module, index)
            with module.masked():
                streams.pruned.advance(module.module, index)
        self.source.release(index)
        return_free_memory()

    def _outside(self, streams: Streams | None) -> None:
        """Embeddings, final norm and head; and what the masked model gives for the first window."""
        self.source.load_outside(head=True)
        module, known = self.cutter.outside(), self.cutter.known
        narrowed = self.output.narrowed(module, known)
        scaled = scaled_as_before(self.source, self.output, narrowed, known)
        stored = self.source.stored_dtype
        self.rounded = any(scaled[name] is not value and stored(name).itemsize < 4 for name, value in narrowed.items())
        self.output.put(scaled)
        if streams is not None:
            self.logits = self._head(module, streams)
        self.source.release_outside()

    @torch.no_grad()
    def _head(self, module: MaskedModule, streams: Streams) -> Tensor:
        first = slice(0, 1)
        with module.masked():
            return streams.pruned.head(first, streams.pruned.state.read(first, self.source.device)).cpu()

    def replayed(self, done: Sequence[dict[str, Any]]) -> Tensor:
        """What the masked model gives for the first window, all of its blocks ``done`` and written before."""
        if self.windows is None:
            raise TypeError("a replay needs a window")
        for entry in done:
            self.cutter.remember(entry["block"], entry["units"])
        streams = Streams(self.source, self.windows[:1], self.limits, None, False)
        streams.start(0)
        self.cutter.embed(streams.pruned)
        self.progress.start("Running the masked model", len(self.source.blocks))
        for index in range(len(self.source.blocks)):
            self._replay(index, streams)
            self.progress.step()
        self.source.load_outside(head=True)
        logits = self._head(self.cutter.outside(), streams)
        self.source.release_outside()
        streams.close()
        return logits

    def _start(self, done: Sequence[dict[str, Any]]) -> Streams | None:
        if self.windows is None:
            return None
        streams = Streams(self.source, self.windows, self.limits, self.journal.folder, self.plan.method.follows_dense)
        first = streams.start(len(done))
        if not first:
            self.cutter.embed(streams.pruned)
        streams.replay(first, len(done), self._replay, self.progress)
        return streams

    def _replay(self, index: int, streams: Streams) -> None:
        """Take the state through a finished block, as it was written."""
        if streams.dense is not None or index in self.plan.blocks:
            block = self.source.load(index)
            if streams.dense is not None:
                streams.dense.advance(block, index)
        if index in self.plan.blocks:
            cut = self.cutter.cut(index)
            module = MaskedModule(block, self.source.prefix(index), cut, self.source.stored_dtype)
            shapes = {name: self.cutter.shapes[name] for name in self.cutter.repaired(index)}
            module.set(self.output.widened(shapes, cut))
            with module.masked():
                streams.pruned.advance(block, index)
        self.source.release(index)


def _telling_of_zeros(solution: Solution, module: MaskedModule) -> Solution:
    """The Solution with a note, where its layer was pruned and the repair fills zeros."""
    site, keep = solution.site, solution.mask.keep
    zeros = (site.layout.to_matrix(module.value(site.parameter)) == 0) & keep
    filled = int((zeros & (solution.weight != 0)).sum())
    return replace(solution, notes=(*solution.notes, _FILLED)) if filled > PRUNED * int(keep.sum()) else solution
