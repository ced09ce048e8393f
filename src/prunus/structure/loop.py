"""The loop of a structured run: load block → observe → choose units → repair → write what stays → advance the masked block.

Everything runs at dense shapes, with zeros where something goes: a masked model computes what the cut one does, and so the
same statistics and solvers serve both. Only what is written is narrowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.journal import Journal
from ..core.errors import CalibrationError
from ..core.plan import Step
from ..core.problem import Solution
from ..core.progress import Progress, Silent
from ..core.stats import Needs
from ..models.calls import Output
from ..models.residual import residual_streams
from ..patterns.lines import Column
from ..stream.coverage import USUAL, Coverage
from ..stream.gradients import Gradients
from ..stream.heap import return_free_memory, reused_memory
from ..stream.records import site_record, summary
from ..stream.solve_block import BlockSolver, DenseRuns, Kind, kind_of
from ..stream.sources import CheckpointSource
from ..stream.streams import Streams
from ..stream.trunk import Limits, Trunk
from .chooser import Chooser, Task, readers_of
from .coupling import Coupling
from .cut import Cut, Kept
from .entering import scaled_as_before
from .expert_survey import choose_experts, survey_experts
from .masked_block import MaskedModule
from .output import CutOutput
from .plan import ShrinkPlan

STATE_SECONDS = 60.0
"""The carried state is saved when this long has passed since it was last."""


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

    def __post_init__(self) -> None:
        method = self.plan.method
        self.shapes = {name: tuple(value.shape) for name, value in self.source.model.state_dict().items()}
        everything = [task for tasks in self.tasks.values() for task in tasks]
        every_site = [site for found in self.source.found for site in found.sites]
        self.sites = {site.parameter: site for site in every_site}
        own = self.gradients.of if self.gradients is not None else (lambda site: {})
        units = {id(kept.coupling): kept.units for kept in self.fixed}
        given = [Task(kept.coupling, len(kept.units)) for kept in self.fixed]
        self.chooser = Chooser(self.plan.importance, self._tensor, self._has, own, self.sites, [*given, *everything], units)
        needs = self.plan.importance.needs
        self.solver = BlockSolver(method, self.source.matrix, self.limits.budget, self.coverage, own, also=needs)
        self.known = Cut(self.fixed, self.shapes)
        self.seen: dict[str, dict[str, list[int]]] = {}
        self._now: MaskedModule | None = None
        self._streams: dict[Kind, dict[str, str]] = {}
        self._dense_moved = False

    @property
    def units(self) -> dict[str, list[int]]:
        """The units that stay of everything that was cut, by where each coupling is first met."""
        given = {str(kept.coupling.first): kept.units.tolist() for kept in self.fixed}
        tasks = [task for tasks in self.tasks.values() for task in tasks]
        return {**given, **{str(task.coupling.first): self.chooser.kept(task).tolist() for task in tasks}}

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
            self._remember(entry)
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
        block = self.source.load(index)
        module = self._now = MaskedModule(block, self.source.prefix(index), self.known, self.source.stored_dtype)
        tasks = self.tasks.get(index, ())
        self._choose_experts(index, module, streams)
        solutions = self._solve(index, module, streams)
        chosen = [Kept(task.coupling, self.chooser.kept(task)) for task in tasks]
        cut = self._cut(index)
        module.lay(cut)
        module.set({s.site.parameter: s.site.layout.from_matrix(s.weight.float()) for s in solutions.values()})
        module.lay(cut)
        records = [site_record(solution, None, perf_counter() - lap) for solution in solutions.values()]
        units = [kept.units.tolist() for kept in chosen]
        tensors = {name: value.clone() for name, value in self.output.narrowed(module, cut).items()}
        mark = partial(self.journal.mark, {"block": index, "sites": records, "units": units})
        self.source.background.later(self.output.job(tensors, mark))
        self._advance(index, module, streams)
        return records

    def _choose_experts(self, index: int, module: MaskedModule, streams: Streams | None) -> None:
        """Experts go first, by what they give; their routers pass over them from here on."""
        for task in [task for task in self.tasks.get(index, ()) if task.coupling.experts]:
            if streams is None:
                raise CalibrationError("experts are chosen by what they give on calibration text: give some.")
            runs = _masked_runs(module, streams.pruned, index)
            routed = survey_experts(module.module, module.prefix, task.coupling, runs)
            self.chooser.chosen[id(task.coupling)] = choose_experts(self.plan.experts, routed, task.kept, task.groups)
            self.seen[module.prefix] = {"tokens": routed.tokens.long().tolist(), "unseen": routed.unseen.tolist()}
            module.lay(self._cut(index))

    def _solve(self, index: int, module: MaskedModule, streams: Streams | None) -> dict[str, Solution]:
        """The repaired weights of everything in a block that reads what goes, by Site name."""
        steps = self._steps(index)
        self._dense_moved = False
        if not steps:
            return {}
        forward = dense = None
        if streams is not None:
            trunk = streams.pruned
            forward = partial(_masked_runs, module, trunk, index)
            sites = [step.site for step in steps]
            if streams.dense is not None and any(not site.layout.stacked for site in sites):
                kind = kind_of(module.module, sites)
                if kind not in self._streams and Needs.DRIFT in self.plan.method.needs:
                    self._streams[kind] = residual_streams(
                        module.module, sites, lambda: trunk.run(module.module, index, 0).hidden
                    )
                dense = DenseRuns(partial(streams.dense.steps, module.module, index), self._streams.get(kind, {}))
        solutions = self.solver.solve(module.module, module.prefix, steps, forward, dense, self.chooser.mask)
        if dense is not None and streams is not None and streams.dense is not None:
            streams.dense.turn()
            self._dense_moved = True
        return solutions

    def _steps(self, index: int) -> list[Step]:
        """Sites of a block that read units of which some go."""
        steps = []
        for site in self.source.found[index].sites:
            read = readers_of(self.chooser.tasks, site)
            if read:
                steps.append(Step(site, min(0.999, max(task.dropped_share for task, _ in read)), Column()))
        return steps

    def _cut(self, index: int) -> Cut:
        """All that goes of a block: what was fixed, and units chosen in it, or in another where a coupling spans blocks."""
        prefix = self.source.prefix(index)
        chosen = [
            Kept(task.coupling, self.chooser.kept(task))
            for tasks in self.tasks.values()
            for task in tasks
            if id(task.coupling) in self.chooser.chosen and _reaches(task.coupling, prefix)
        ]
        return Cut([*self.fixed, *chosen], self.shapes)

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
        self._now = None
        self.source.release(index)
        return_free_memory()

    def _outside(self, streams: Streams | None) -> None:
        """Embeddings, final norm and head; and what the masked model gives for the first window."""
        self.source.load_outside(head=True)
        module = self._all_outside()
        narrowed = self.output.narrowed(module, self.known)
        self.output.put(scaled_as_before(self.source, self.output, narrowed, self.known))
        if streams is not None:
            with module.masked(), torch.no_grad():
                first = slice(0, 1)
                hidden = streams.pruned.state.read(first, self.source.device)
                self.logits = streams.pruned.head(first, hidden).cpu()
        self.source.release_outside()

    def _all_outside(self) -> MaskedModule:
        """What is outside the blocks, masked; it has to be loaded."""
        source = self.source
        return MaskedModule(source.model, "", self.known, source.stored_dtype, lambda name: not source.is_inside(name))

    def _start(self, done: Sequence[dict[str, Any]]) -> Streams | None:
        if self.windows is None:
            return None
        streams = Streams(self.source, self.windows, self.limits, self.journal.folder, self.plan.method.follows_dense)
        first = streams.start(len(done))
        if not first and self.known.positions:
            self.source.load_outside(head=False)
            with (
                self.source.held_outside(),
                self._all_outside().masked(),
            ):
                streams.pruned.embed()
            self.source.release_outside()
        if first < len(done):
            self.progress.start("Replaying finished blocks", len(done) - first)
        for index in range(first, len(done)):
            self._replay(index, streams)
            self.progress.step()
        return streams

    def _replay(self, index: int, streams: Streams) -> None:
        """Take the state through a finished block, as it was written."""
        if streams.dense is not None or index in self.plan.blocks:
            block = self.source.load(index)
            if streams.dense is not None:
                streams.dense.advance(block, index)
        if index in self.plan.blocks:
            cut = self._cut(index)
            module = MaskedModule(block, self.source.prefix(index), cut, self.source.stored_dtype)
            repaired = [step.site.parameter for step in self._steps(index)]
            module.set(self.output.widened({name: self.shapes[name] for name in repaired}, cut))
            with module.masked():
                streams.pruned.advance(block, index)
        self.source.release(index)

    def _remember(self, entry: Mapping[str, Any]) -> None:
        for task, units in zip(self.tasks.get(entry["block"], ()), entry["units"], strict=True):
            self.chooser.chosen[id(task.coupling)] = torch.tensor(units)

    def _has(self, name: str) -> bool:
        return self._now is not None and name in self._now.parameters

    def _tensor(self, name: str) -> Tensor:
        if self._now is None:
            raise KeyError(name)
        return self._now.value(name).float()


def _within(module: MaskedModule, run: Callable[[], Output]) -> Output:
    with module.masked():
        return run()


def _masked_runs(module: MaskedModule, trunk: Trunk, index: int) -> Iterator[Callable[[], Output]]:
    """Calls that run a masked block on the present state, one for each batch of windows."""
    return (partial(_within, module, run) for run in trunk.runs(module.module, index))


def tasks_by_block(source: CheckpointSource, tasks: Sequence[Task]) -> dict[int, list[Task]]:
    """Tasks by the first block that their units are in."""
    found: dict[int, list[Task]] = {}
    for task in tasks:
        index = min(k for k in range(len(source.blocks)) if _reaches(task.coupling, source.prefix(k)))
        found.setdefault(index, []).append(task)
    return found


def _reaches(coupling: Coupling, prefix: str) -> bool:
    return any(place.tensor.startswith(f"{prefix}.") for place in coupling.members)


def parameters_of(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
