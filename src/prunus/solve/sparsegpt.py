"""SparseGPT: left to right, every dropped weight's error is spread over the columns to its right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from ..core.stats import Needs, Stats
from .factor import InverseFactor, inverse_factor


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

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal."""

    blocksize: int = 128
    """Columns updated together; also the window that unstructured masks are chosen in."""

    def __post_init__(self) -> None:
        if self.blocksize < 1 or not 0 <= self.damp <= 1:
            raise ValueError(f"blocksize {self.blocksize} must be at least 1 and damp {self.damp} in [0, 1]")

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        start = perf_counter()
        factor = inverse_factor(problems[0].stats, self.damp, problems[0].site.name)
        stack = _Stack(problems, factor)
        width = _block_width([problem.pattern.window(stack.cols, self.blocksize) for problem in problems],
                             self.blocksize, stack.cols)  # fmt: skip
        for left in range(0, stack.cols, width):
            stack.eliminate(left, min(left + width, stack.cols), self.blocksize)
        seconds = (perf_counter() - start) / stack.rows
        return [
            Solution.of(problem, weight, keep, seconds * problem.site.rows, factor.notes)
            for problem, weight, keep in stack.results()
        ]


def _block_width(windows: Sequence[int], blocksize: int, cols: int) -> int:
    """The widest block of at most ``blocksize`` columns that no window straddles (windows of all columns aside)."""
    unit = math.lcm(*(window for window in windows if window < cols))
    return max(unit, blocksize // unit * unit)


class _Stack:
    """The Problems' weights above one another, transposed to ``[batch cols rows]`` so that a column is contiguous."""

    def __init__(self, problems: Sequence[Problem], factor: InverseFactor) -> None:
        self.problems = problems
        self.upper = factor.upper  # [batch cols cols]
        self.pivots = factor.upper.diagonal(dim1=-2, dim2=-1)  # [batch cols]
        weight = torch.cat([problem.weight for problem in problems], dim=1)  # [batch rows cols]
        self.rows, self.cols = weight.shape[1:]
        self.columns = weight.masked_fill(factor.dead.unsqueeze(1), 0).transpose(1, 2).contiguous()
        self.keep = torch.ones_like(self.columns, dtype=torch.bool)
        ends = torch.tensor([problem.site.rows for problem in problems]).cumsum(0).tolist()
        self.spans = [slice(end - problem.site.rows, end) for problem, end in zip(problems, ends, strict=True)]
        self.stats: Stats = problems[0].stats

    def eliminate(self, left: int, right: int, blocksize: int) -> None:
        """Columns ``left:right`` one by one, then their joint effect on all columns to the right."""
        errors = torch.empty_like(self.columns[:, left:right])
        for j in range(left, right):
            self._choose(j, blocksize)
            wanted = self.columns[:, j]  # [batch rows]
            snapped = self._snap(torch.where(self.keep[:, j], wanted, 0.0), j)
            error = (wanted - snapped) / self.pivots[:, j, None]
            self.columns[:, j] = snapped
            errors[:, j - left] = error
            if j + 1 < right:
                rest = self.upper[:, j, j + 1 : right]  # [batch right-j-1]
                self.columns[:, j + 1 : right].baddbmm_(rest.unsqueeze(2), error.unsqueeze(1), alpha=-1)
        if right < self.cols:
            reach = self.upper[:, left:right, right:].transpose(1, 2)  # [batch cols-right right-left]
            self.columns[:, right:].baddbmm_(reach, errors, alpha=-1)

    def _choose(self, j: int, blocksize: int) -> None:
        for problem, span in zip(self.problems, self.spans, strict=True):
            window = problem.pattern.window(self.cols, blocksize)
            if j % window:
                continue
            stop = min(j + window, self.cols)
            stats = self.stats.columns(j, stop, inverse_diagonal=self.pivots[:, j:stop].square())
            weight = self.columns[:, j:stop, span].transpose(1, 2)
            self.keep[:, j:stop, span] = problem.select(weight, stats, j, stop).transpose(1, 2)

    def _snap(self, column: Tensor, j: int) -> Tensor:
        for problem, span in zip(self.problems, self.spans, strict=True):
            if problem.grid is not None:
                column[:, span] = problem.grid.snap(column[:, span], j)
        return column

    def results(self) -> list[tuple[Problem, Tensor, Tensor]]:
        """Each Problem with its weights and keep-mask, ``[batch rows cols]``."""
        return [
            (problem, self.columns[:, :, span].transpose(1, 2), self.keep[:, :, span].transpose(1, 2))
            for problem, span in zip(self.problems, self.spans, strict=True)
        ]
