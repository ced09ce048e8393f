"""Whole rows or columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import pattern
from ..core.roles import Pattern
from .lowest import keep_highest


@final
@pattern("row", paper="arXiv:1608.03665", cost="a smaller matrix once cut out")
@dataclass(frozen=True)
class Row(Pattern):
    """Whole rows (outputs) are zeroed, by the sum of their scores; the matrix keeps its shape.

    >>> from torch import tensor
    >>> Row().select(tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    tensor([[False, False],
            [ True,  True]])
    """

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        return keep_highest(scores.sum(-1), sparsity).unsqueeze(-1).expand_as(scores)

    def cover(self, nonzero: Tensor) -> Tensor:
        return nonzero.any(-1, keepdim=True).expand_as(nonzero)

    def position_bits(self, rows: int, cols: int) -> int:
        return rows

    def window(self, cols: int, blocksize: int) -> int:
        return cols


@final
@pattern("column", paper="arXiv:1608.03665", cost="a smaller matrix once cut out")
@dataclass(frozen=True)
class Column(Pattern):
    """Whole columns (inputs) are zeroed, by the sum of their scores; the matrix keeps its shape.

    >>> from torch import tensor
    >>> Column().select(tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    tensor([[False,  True],
            [False,  True]])
    """

    @property
    def spans_projections(self) -> bool:
        return True

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        return keep_highest(scores.sum(-2), sparsity).unsqueeze(-2).expand_as(scores)

    def cover(self, nonzero: Tensor) -> Tensor:
        return nonzero.any(-2, keepdim=True).expand_as(nonzero)

    def position_bits(self, rows: int, cols: int) -> int:
        return cols

    def window(self, cols: int, blocksize: int) -> int:
        return cols
