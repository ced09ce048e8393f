"""SparseGPT: left to right, every dropped weight's error is spread over the columns to its right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.matmul import linear
from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Levels, Solver
from ..core.stats import Needs, Stats
from .factor import InverseFactor, inverse_factor
from .rounding import packed
from .stacked import spans_of

_STRIP = 16
"""Columns that are eliminated one by one before a matrix product carries their effect on."""


@final
@solver("sparsegpt", paper="arXiv:2301.00774", cost="a Gram, its factorisation and cols rank-1 updates")
@dataclass(frozen=True)
class SparseGPT(Solver):
    """The paper's algorithm 1, on all rows of all Problems that share the inputs at once.

    H⁻¹ = UᵀU. For each column j: err = (w_j − q_j)/U_jj, and W_:,k −= err·U_jk for every k > j, where q_j is w_j
    under the mask (and on the grid, if there is one). Updates reach past a block of columns only at its end, as one
    matrix product. The mask is chosen a window of columns at a time, from weights already updated.
    """

    needs: ClassVar[Needs] = Needs.GRAM
    copies: ClassVar[float] = 5.0

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal."""

    blocksize: int = 128
    """Columns updated together; also the window that unstructured masks are chosen in."""

    def __post_init__(self) -> None:
        if self.blocksize < 1 or not 0 <= self.damp <= 1:
            raise ValueError(f"blocksize {self.blocksize} must be at least 1 and damp {self.damp} in [0, 1]")

    @property
    def products(self) -> int:
        return 4  # one, but column by column

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        start = perf_counter()
        factor = inverse_factor(problems[0].stats, self.damp, problems[0].site.name)
        stack = _Stack(problems, factor, self.blocksize)
        for left, right in stack.blocks():
            stack.eliminate(left, right)
        seconds = (perf_counter() - start) / stack.rows
        return [
            Solution.of(problem, weight, keep, seconds * problem.site.rows, factor.notes, packed(problem, weight, levels))
            for problem, weight, keep, levels in stack.results()
        ]


class _Stack:
    """The Problems' weights above one another, transposed to ``[batch cols rows]`` so that a column is contiguous."""

    def __init__(self, problems: Sequence[Problem], factor: InverseFactor, blocksize: int) -> None:
        self.problems = problems
        self.stats: Stats = problems[0].stats
        self.upper = factor.upper  # [batch cols cols]
        self.pivots = factor.upper.diagonal(dim1=-2, dim2=-1)  # [batch cols]
        batch, cols = self.pivots.shape
        self.spans = spans_of(problems)
        self.rows, self.cols = self.spans[-1].stop, cols
        self.columns = torch.empty(batch, cols, self.rows, device=self.pivots.device)
        for problem, span in zip(problems, self.spans, strict=True):
            self.columns[:, :, span] = problem.aimed.transpose(1, 2)
            if problem.changes:
                self.columns[:, :, span].masked_fill_(factor.dead.unsqueeze(2), 0)
        self.keep = torch.ones_like(self.columns, dtype=torch.bool)
        self.windows = [problem.pattern.window(cols, blocksize) for problem in problems]
        self.groups = [problem.grid.width(cols) if problem.grid is not None else cols for problem in problems]
        self.levels: list[list[Levels]] = [[] for _ in problems]
        self.choosers = self._choosers()
        self.blocksize = blocksize
        self.quantised = any(problem.grid is not None for problem in problems)

    def _choosers(self) -> list[tuple[Problem, slice, int]]:
        """Who chooses the mask of which rows, a window of columns at a time; Problems that choose alike do it together."""
        found: list[tuple[Problem, slice, int]] = []
        for problem, span, window in zip(self.problems, self.spans, self.windows, strict=True):
            if found and found[-1][0].chooses_like(problem):
                found[-1] = (problem, slice(found[-1][1].start, span.stop), window)
            else:
                found.append((problem, span, window))
        return found

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of about ``blocksize`` columns that no window or grid group straddles (those of all columns aside)."""
        unit = math.lcm(*(width for width in (*self.windows, *self.groups) if width < self.cols))
        return _ranges(0, self.cols, max(unit, self.blocksize // unit * unit))

    def strips(self, left: int, right: int) -> list[tuple[int, int]]:
        """A block cut into strips of at most 16 columns: every window or grid group lies inside one or begins with one."""
        found = []
        while left < right:
            stop = self._strip_end(left, min(left + _STRIP, right))
            found.append((left, stop))
            left = stop
        return found

    def _strip_end(self, left: int, stop: int) -> int:
        """Where a strip that begins at ``left`` ends, at ``stop`` or before the first window that would not fit in."""
        while True:
            starts = (((stop - 1) // width * width, width) for width in (*self.windows, *self.groups))
            cut = min((start for start, width in starts if start > left and start + width > stop), default=stop)
            if cut == stop:
                return stop
            stop = cut

    def eliminate(self, left: int, right: int) -> None:
        """Columns ``left:right`` one by one; their effect reaches the strip's end at once, the block's at the strip's,
        and all columns to the right at the block's, as matrix products.
        """
        errors = torch.empty_like(self.columns[:, left:right])
        for start, stop in self.strips(left, right):
            made = errors[:, start - left : stop - left]
            self._eliminate_strip(start, stop, made)
            self._spread(made, start, stop, right)
        self._spread(errors, left, right, self.cols)

    def _eliminate_strip(self, start: int, stop: int, errors: Tensor) -> None:
        strip = self.columns[:, start:stop]  # [batch width rows]
        reach = self.upper[:, start:stop, start:stop].unsqueeze(-1).unbind(1)  # width of [batch width 1]
        columns, made = strip.split(1, 1), errors.split(1, 1)  # width of [batch 1 rows]
        for left, right in itertools.pairwise([*self._choices(start, stop), stop]):
            self._choose(left)
            self._fit(left)
            pivots = self.pivots[:, left:right, None]
            leaving = (~self.keep[:, left:right] / pivots).split(1, 1)  # 1 / U_jj where w is to be dropped, else 0
            for j in range(left, right):
                k = j - start
                if self.quantised:
                    snapped = self._snap(columns[k].masked_fill(~self.keep[:, j : j + 1], 0))
                    torch.div(columns[k] - snapped, self.pivots[:, j, None, None], out=made[k])
                    columns[k].copy_(snapped)
                else:  # what is dropped is masked at the end, all at once
                    torch.mul(columns[k], leaving[j - left], out=made[k])
                if j + 1 < stop:
                    rest = stop - j - 1
                    strip.narrow(1, k + 1, rest).addcmul_(reach[k].narrow(1, k + 1, rest), made[k], value=-1)

    def _spread(self, errors: Tensor, left: int, right: int, end: int) -> None:
        """Subtract what the ``errors`` of columns ``left:right`` mean for the columns from there to ``end``."""
        if right == end:
            return
        reach, rest = self.upper[:, left:right, right:end].transpose(1, 2), self.columns[:, right:end]
        if right - left < self.blocksize:  # too thin to be worth another order of memory
            rest.baddbmm_(reach, errors, alpha=-1)
        else:
            for entry in range(len(rest)):
                rest[entry] -= linear(reach[entry], errors[entry].T)

    def _choices(self, start: int, stop: int) -> list[int]:
        """The columns of a strip where masks are chosen and grids fitted; its first is always among them."""
        widths = {*(window for *_, window in self.choosers), *self.groups}
        return sorted({start, *(j for width in widths for j in range(start, stop) if j % width == 0)})

    def _choose(self, j: int) -> None:
        """Choose the masks of the windows that begin with column ``j``."""
        for problem, span, window in self.choosers:
            if j % window:
                continue
            stop = min(j + window, self.cols)
            stats = self.stats.columns(j, stop, inverse_diagonal=self.pivots[:, j:stop].square())
            weight = self.columns[:, j:stop, span].transpose(1, 2)
            self.keep[:, j:stop, span] = problem.select(weight, stats, j, stop).transpose(1, 2)

    def _fit(self, j: int) -> None:
        """Fit the grids of the groups that begin with column ``j`` to the survivors as they are now."""
        for number, problem in enumerate(self.problems):
            width = self.groups[number]
            if problem.grid is None or j % width:
                continue
            span, stop = self.spans[number], j + width
            weight = self.columns[:, j:stop, span].transpose(1, 2)
            keep = self.keep[:, j:stop, span].transpose(1, 2)
            window = self.windows[number]
            chosen = (j // window + 1) * window
            if chosen < stop:  # the rest of the group as if it were chosen now
                end = min(-(-stop // window) * window, self.cols)
                stats = self.stats.columns(chosen, end, inverse_diagonal=self.pivots[:, chosen:end].square())
                rest = problem.select(self.columns[:, chosen:end, span].transpose(1, 2), stats, chosen, end)
                keep = torch.cat([keep[..., : chosen - j], rest[..., : stop - chosen]], dim=-1)
            importance = self.pivots[:, None, j:stop].pow(-2)
            self.levels[number].append(problem.grid.fit(weight * keep, importance, problem.site.dtype))

    def _snap(self, column: Tensor) -> Tensor:
        """``column [batch 1 rows]`` on the Problems' grids."""
        for problem, span, levels in zip(self.problems, self.spans, self.levels, strict=True):
            if problem.grid is not None:
                column[..., span] = problem.grid.snap(column[..., span].mT, levels[-1]).mT
        return column

    def results(self) -> list[tuple[Problem, Tensor, Tensor, list[Levels]]]:
        """Each Problem with its weights and keep-mask ``[batch rows cols]``, and the levels of its groups."""
        return [
            (problem, self.columns[:, :, span].transpose(1, 2), self.keep[:, :, span].transpose(1, 2), levels)
            for problem, span, levels in zip(self.problems, self.spans, self.levels, strict=True)
        ]


def _ranges(start: int, stop: int, width: int) -> list[tuple[int, int]]:
    return [(left, min(left + width, stop)) for left in range(start, stop, width)]
