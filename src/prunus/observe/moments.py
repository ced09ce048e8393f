"""How each moment of Stats is accumulated: one batch of inputs at a time, in fp32 or better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..core.matmul import add_gram, linear, mirror
from ..core.stats import Needs


class Batch:
    """Inputs ``rows [tokens cols]``, and ``columns [cols tokens]`` for products, laid out once for all of them.

    ``windows [windows tokens cols]`` are the same by the window that they came in; what came without is one window.
    """

    def __init__(self, rows: Tensor, windows: Tensor | None = None) -> None:
        self.rows = rows
        self.windows = rows.unsqueeze(0) if windows is None or windows.dim() != 3 else windows

    @cached_property
    def columns(self) -> Tensor:
        """The same, transposed and contiguous."""
        return self.rows.T.contiguous()


@dataclass(frozen=True)
class Moment:
    """``update(total, batch)`` adds a batch to one batch entry's total; ``finish(total)`` ends the sum."""

    need: Needs
    shape: Callable[[int], tuple[int, ...]]
    update: Callable[[Tensor, Batch], object]
    finish: Callable[[Tensor], object] = lambda total: None


SAMPLE_ROWS = 512
"""Rows kept as a sample, at least and where there are so many; at most twice that."""

MOMENTS: dict[str, Moment] = {
    "norm_sq": Moment(Needs.NORM, lambda cols: (cols,), lambda total, x: total.add_(x.rows.square().sum(0))),
    "abs_sum": Moment(Needs.ABS, lambda cols: (cols,), lambda total, x: total.add_(x.rows.abs().sum(0))),
    "sum": Moment(Needs.SUM, lambda cols: (cols,), lambda total, x: total.add_(x.rows.sum(0))),
    "window_sq": Moment(
        Needs.WINDOWS, lambda cols: (cols,), lambda total, x: total.add_(x.windows.float().abs().mean(1).square().sum(0))
    ),
    "gram": Moment(Needs.GRAM, lambda cols: (cols, cols), lambda total, x: add_gram(total, x.columns), mirror),
}
"""The moments that are sums over inputs alone. ``drift`` and ``sample`` are others: see ``Tally``."""


def moment_of(left: Tensor, inputs: Batch) -> Tensor:
    """AᵀX ``[rows cols]`` of ``left [tokens rows]`` and the inputs X."""
    return linear(left.T.contiguous(), inputs.columns)


def nbytes(needs: Needs, batch: int, cols: int, rows: int) -> int:
    """Bytes of fp32 moments for a Site with ``batch`` entries of ``cols`` inputs and ``rows`` outputs.

    Stacked experts have no drift: the dense model routes other tokens to them.
    """
    values = sum(torch.Size(m.shape(cols)).numel() for m in MOMENTS.values() if m.need in needs)
    if Needs.DRIFT in needs and batch == 1:
        values += max(rows, cols) * cols  # of its inputs, or of what it is added to
    if Needs.SAMPLE in needs:
        values += 2 * SAMPLE_ROWS * cols
    return 4 * batch * values
