"""Trials of shapes: candidates cut in passing, block by block side by side, and held against the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..core.errors import UnsupportedModelError
from ..core.progress import Progress
from ..core.units import Units
from ..measure.quality import Divergence
from ..stream.coverage import USUAL, Coverage
from ..stream.gradients import Gradients
from ..stream.scratch import passing_folder
from ..stream.solve_block import BlockSolver
from ..stream.sources import CheckpointSource
from ..stream.trunk import Limits, Trunk
from ..targets.sparse import Sparse
from .block_cutter import BlockCutter, Choice
from .chooser import Task
from .masked_block import MaskedModule
from .outline import Outline

States = tuple[list[Tensor], list[list[Tensor]]]
"""Hidden states of the dense model, batch by batch, and of every candidate."""


@dataclass(frozen=True)
class Candidate:
    """A shape to try: its outline and, where the hidden width is cut, the ``channels`` that stay."""

    outline: Outline
    channels: Tensor | None = None


@dataclass
class ShapeTrials:
    """Units are chosen and what reads them is repaired on ``fitted``, windows ``[samples seqlen]``, on inputs as in the
    dense model; candidates are judged on the windows ``judged``.

    The order in which units go is found once, whatever the number of candidates.
    """

    source: CheckpointSource
    choice: Choice
    fitted: Tensor
    judged: Tensor
    limits: Limits
    progress: Progress
    coverage: Coverage = USUAL
    gradients: Gradients | None = None
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def evaluate(self, candidates: Sequence[Candidate], told: str) -> list[float]:
        """Mean KL(dense ‖ candidate) a token in nats; one that overflows is infinitely far. ``told`` names the pass.

        As many run side by side as have room for their hidden states in the limits' budget.

        Raises:
            UnsupportedModelError: if blocks hand each other more than hidden states, or there is no language-model head.
            NumericalError: if the dense model's own logits are NaN or Inf.
        """
        source = self.source
        if source.model.get_output_embeddings() is None:
            raise UnsupportedModelError(
                f"{type(source.model).__name__}: shapes are judged by the tokens that a model predicts, and it has no "
                "language-model head. Say what stays by --neurons, --heads … in place of a target."
            )
        state = 4 * self.judged.numel() * source.model.get_input_embeddings().weight.shape[1]
        most = max(1, self.limits.budget // state - 1)
        parties = [candidates[k : k + most] for k in range(0, len(candidates), most)]
        self.progress.start(told, (len(source.blocks) + 1) * len(parties))
        return [kl for party in parties for kl in self._evaluate(party)]

    def _evaluate(self, candidates: Sequence[Candidate]) -> list[float]:
        source = self.source
        with passing_folder() as folder:
            fit = Trunk(source, self.fitted, *self.limits, folder, "fitted")
            judge = Trunk(source, self.judged, *self.limits, folder, "judged")
            for trunk in (fit, judge):
                trunk.embed()
                trunk.require_plain([], "shapes are tried on one stack of blocks that hand on hidden states alone. Say "
                                        "what stays by --neurons, --heads … in place of a target.")  # fmt: skip
            cutters = [
                BlockCutter(
                    source, self.choice, one.outline.tasks(), one.outline.fixed(one.channels), self.gradients, self._pick
                )
                for one in candidates
            ]
            dense = _read(judge)
            states = [self._embedded(cutter) or dense for cutter in cutters]
            solver = self._solver(cutters)
            for index in range(len(source.blocks)):
                dense, states = self._block(index, candidates, cutters, (fit, judge), (dense, states), solver)
                self.progress.step()
            found = self._judge(judge, cutters, dense, states)
            self.progress.step()
            for trunk in (fit, judge):
                trunk.close()
        return found

    def _solver(self, cutters: Sequence[BlockCutter]) -> BlockSolver:
        method = replace(self.choice.method, target=Sparse(), grid=None, stages=())
        first, needs = cutters[0], self.choice.importance.needs
        return BlockSolver(method, self.source.matrix, self.limits.budget, self.coverage, first.own, also=needs,
                           biased=first.biased)  # fmt: skip

    def _embedded(self, cutter: BlockCutter) -> list[Tensor] | None:
        """The hidden states that enter the first block, where they are others than the dense model's."""
        if not cutter.known.positions:
            return None
        trunk = Trunk(self.source, self.judged, *self.limits, None)
        cutter.embed(trunk)
        found = _read(trunk)
        trunk.close()
        return found

    def _block(self, index: int, candidates: Sequence[Candidate], cutters: Sequence[BlockCutter],
               trunks: tuple[Trunk, Trunk], states: States, solver: BlockSolver) -> States:  # fmt: skip
        """The dense model's states and all candidates' behind a block."""
        source, (fit, judge), (dense, entering) = self.source, trunks, states
        block = source.load(index)
        source.expect(index + 1)
        behind = [judge.run(block, index, number, hidden).hidden for number, hidden in enumerate(dense)]
        leaving = list(entering)
        there = [k for k, one in enumerate(candidates) if index in one.outline.blocks]
        size = sum(parameter.numel() * 4 for parameter in block.parameters())
        together = max(1, self.limits.budget // max(1, size))
        for start in range(0, len(there), together):
            some = there[start : start + together]
            modules = {k: cutters[k].begin(index, block) for k in some}
            for k in some:
                cutters[k].choose_experts(index, modules[k], partial(fit.runs, block, index))
            choices = [cutters[k].steps(index) for k in some]
            solved = [{} for _ in some]  # type: ignore[var-annotated]
            if any(choices):
                masks = [cutters[k].chooser.mask for k in some]
                prefix = source.prefix(index)
                solved = solver.solve_each(block, prefix, choices, partial(fit.runs, block, index), masks=masks)
            for k, solutions in zip(some, solved, strict=True):
                cut = cutters[k].finish(index, modules[k], solutions)
                if not cut.positions and entering[k] is dense:
                    leaving[k] = behind
                    continue
                with modules[k].masked():
                    leaving[k] = [judge.run(block, index, n, hidden).hidden for n, hidden in enumerate(entering[k])]
        fit.advance(block, index)
        source.release(index)
        return behind, leaving

    def _judge(self, judge: Trunk, cutters: Sequence[BlockCutter], dense: list[Tensor],
               states: Sequence[list[Tensor]]) -> list[float]:  # fmt: skip
        found = [math.inf] * len(cutters)
        self.source.load_outside(head=True)
        alike = [k for k, cutter in enumerate(cutters) if not cutter.known.positions]
        for k, kl in zip(alike, _divergences(judge, dense, [states[k] for k in alike]), strict=True):
            found[k] = kl
        for k in sorted(set(range(len(cutters))) - set(alike)):  # each has a head of its own: one in memory at a time
            (found[k],) = _divergences(judge, dense, [states[k]], cutters[k].outside())
        self.source.release_outside()
        return found

    def _pick(self, task: Task, units: Units) -> Tensor:
        key = id(task.coupling)
        if key not in self._orders:
            self._orders[key] = self.choice.importance.order(units)
        return units.last(self._orders[key], task.kept)


def _read(trunk: Trunk) -> list[Tensor]:
    return [trunk.state.read(batch, trunk.source.device) for batch in trunk.batches]


def _divergences(judge: Trunk, dense: list[Tensor], ends: Sequence[list[Tensor]], masked: MaskedModule | None = None
                 ) -> list[float]:  # fmt: skip
    """KL of the logits from each of several ``ends``, states behind the last block, to those of the dense model's."""
    divergences = [Divergence() for _ in ends]
    for number, batch in enumerate(judge.batches if ends else ()):
        for k in range(batch.stop - batch.start):
            window, place = slice(batch.start + k, batch.start + k + 1), slice(k, k + 1)
            logits = judge.dense_head(window, dense[number][place])
            with masked.masked() if masked is not None else nullcontext():
                for divergence, end in zip(divergences, ends, strict=True):
                    divergence.add(logits, judge.head(window, end[number][place]))
    return [one.kl if math.isfinite(one.kl) else math.inf for one in divergences]
