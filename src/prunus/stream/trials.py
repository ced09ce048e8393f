"""Trials: every Site solved at several sparsities, and models mixed from them held against the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from ..core.method import Method
from ..core.plan import Step
from ..core.progress import Progress
from ..core.roles import Pattern
from ..core.site import Site
from ..measure.quality import Divergence
from ..patterns.nm import NM
from ..targets.sparse import Sparse
from .coverage import USUAL, Coverage
from .scratch import folder_of, full_disk_told
from .solve_block import BlockSolver
from .sources import Source
from .trunk import Limits, Trunk

_DENSE = 0.0


@dataclass
class Trials:
    """The dense model's Sites solved one by one at every level, on disk, and candidates that mix them.

    ``windows [samples seqlen]`` are what they are solved on; candidates are tried on the first of them. ``own`` gives the
    moments of the weight itself, ``coverage`` says what becomes of experts that too few tokens reach.
    """

    source: Source
    method: Method
    sites: Sequence[Site]
    levels: Sequence[float]
    windows: Tensor
    limits: Limits
    progress: Progress
    coverage: Coverage = USUAL
    own: Callable[[Site], Mapping[str, Tensor]] = lambda site: {}
    _trunks: dict[tuple[int, int], tuple[Trunk, list[Tensor]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._folder = folder_of(self)
        self._inside = {index: [s for s in self.sites if s.block == index] for index in range(len(self.source.blocks))}

    @torch.no_grad()
    @full_disk_told()
    def build(self) -> None:
        """Solve every Site at every level but 0, on the inputs that it has in the dense model.

        Raises:
            UnsupportedModelError: if a Site is outside the blocks, blocks hand each other more than hidden states, or the
                model has no language-model head.
            OutputError: if the disk beneath the temporary files is full.
        """
        if self.source.model.get_output_embeddings() is None:
            raise UnsupportedModelError(
                f"{type(self.source.model).__name__}: trials are judged by the tokens that a model predicts, and it has no "
                "language-model head. Choose another --allocation."
            )
        trunk = self._start(self.windows, "solved")
        method = replace(self.method, target=Sparse(), grid=None, stages=())
        solver = BlockSolver(method, self.source.matrix, self.limits.budget, self.coverage, self.own)
        self.progress.start("Solving at every level", len(self.source.blocks))
        wanted = [level for level in self.levels if level > _DENSE]
        for index, sites in self._inside.items():
            block = self.source.load(index)
            choices = [[Step(site, level, at_level(self.method.pattern, level)) for site in sites] for level in wanted]
            if sites:
                runs = partial(trunk.runs, block, index)
                solved = solver.solve_each(block, self.source.prefix(index), choices, runs)
                for level, found in zip(wanted, solved, strict=True):
                    for solution in found.values():
                        self._write(solution.site, level, solution.weight)
            trunk.advance(block, index)
            self.source.release(index)
            self.progress.step()
        trunk.close()

    @torch.no_grad()
    @full_disk_told()
    def evaluate(self, candidates: Sequence[Mapping[str, float]], tokens: int) -> list[float]:
        """Mean KL(dense ‖ candidate) a token in nats, over the first windows of about so many ``tokens``; where
        those are fewer than a window has, over that window's beginning.

        Candidates run side by side, a block at a time; what begins alike is run once. One that overflows is infinitely far.

        Raises:
            NumericalError: if the dense model's own logits are NaN or Inf.
        """
        seqlen = min(self.windows.shape[1], max(2, tokens))
        count = min(len(self.windows), max(1, tokens // seqlen))
        if (count, seqlen) not in self._trunks:
            trunk = self._start(self.windows[:count, :seqlen], f"tried-{count}x{seqlen}")
            dense = {site.name: _DENSE for site in self.sites}
            (ends,) = self._run(trunk, [dense])
            self._trunks[count, seqlen] = (trunk, ends)
        trunk, dense_ends = self._trunks[count, seqlen]
        return self._judge(trunk, dense_ends, self._run(trunk, candidates))

    def _run(self, trunk: Trunk, candidates: Sequence[Mapping[str, float]]) -> list[list[Tensor]]:
        """The hidden states behind the last block of every candidate, batch by batch."""
        entering = [trunk.state.read(batch, self.source.device) for batch in trunk.batches]
        groups: list[tuple[list[int], list[Tensor]]] = [(list(range(len(candidates))), entering)]
        for index, sites in self._inside.items():
            block = self.source.load(index)
            self.source.expect(index + 1)
            dense = {site: self.source.matrix(site).clone() for site in sites}
            after = []
            for members, states in groups:
                alike: dict[tuple[float, ...], list[int]] = {}
                for member in members:
                    alike.setdefault(tuple(candidates[member][site.name] for site in sites), []).append(member)
                for levels, same in alike.items():
                    self.source.put({s: self._weight(s, level, dense) for s, level in zip(sites, levels, strict=True)})
                    after.append((same, self._through(trunk, block, index, states)))
            self.source.put(dense)
            self.source.release(index)
            groups = after
        found = {member: states for members, states in groups for member in members}
        return [found[member] for member in range(len(candidates))]

    @staticmethod
    def _through(trunk: Trunk, block: nn.Module, index: int, states: list[Tensor]) -> list[Tensor]:
        return [trunk.run(block, index, number, hidden).hidden for number, hidden in enumerate(states)]

    def _judge(self, trunk: Trunk, dense: list[Tensor], ends: list[list[Tensor]]) -> list[float]:
        found = [Divergence() for _ in ends]
        self.source.load_outside(head=True)
        for number, batch in enumerate(trunk.batches):
            for k in range(batch.stop - batch.start):
                window, place = slice(batch.start + k, batch.start + k + 1), slice(k, k + 1)
                logits = trunk.dense_head(window, dense[number][place])
                for divergence, states in zip(found, ends, strict=True):
                    divergence.add(logits, trunk.head(window, states[number][place]))
        self.source.release_outside()
        return [divergence.kl if math.isfinite(divergence.kl) else math.inf for divergence in found]

    def _start(self, windows: Tensor, name: str) -> Trunk:
        trunk = Trunk(self.source, windows, *self.limits, self._folder, name)
        trunk.embed()
        trunk.require_plain(
            self.sites,
            "trials mix blocks of one stack that hand on hidden states alone. Choose another --allocation, or leave it out "
            "with --exclude.",
        )
        return trunk

    def _write(self, site: Site, level: float, weight: Tensor) -> None:
        flat = weight.contiguous().flatten().view(torch.uint8).cpu().numpy()
        flat.tofile(self._file(site, level))

    def _weight(self, site: Site, level: float, dense: Mapping[Site, Tensor]) -> Tensor:
        if level == _DENSE:
            return dense[site]
        flat = torch.from_file(str(self._file(site, level)), size=site.numel, dtype=site.dtype)
        return flat.view(site.shape).to(self.source.device)

    def _file(self, site: Site, level: float) -> Path:
        return self._folder / f"{site.name}.{self.levels.index(level)}"


def trial_levels(method: Method, target: float) -> tuple[float, ...]:
    """The sparsities that trials mix: every N of N:M, else those that the allocator wants."""
    if isinstance(method.pattern, NM):
        m = method.pattern.m
        return tuple(1 - n / m for n in range(m, 0, -1))
    return method.allocator.levels(target)


def at_level(pattern: Pattern, level: float) -> Pattern:
    """The pattern at this sparsity: of N:M the one with another N."""
    return NM(round(pattern.m * (1 - level)), pattern.m) if isinstance(pattern, NM) else pattern
