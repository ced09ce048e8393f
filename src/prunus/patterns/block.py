"""Block sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import pattern
from ..core.roles import Pattern
from .lowest import keep_highest


@final
@pattern("block", paper="arXiv:1711.02782", cost="dense kernels on the kept blocks")
@dataclass(frozen=True)
class Block(Pattern):
    """Whole blocks of ``height`` outputs by ``width`` inputs are kept or dropped, by the sum of their scores.

    >>> from torch import tensor
    >>> Block(1, 2).select(tensor([[1.0, 1.0, 2.0, 1.0]]), 0.5)
    tensor([[False, False,  True,  True]])
    """

    height: int = 16
    """Rows (outputs) of a block."""

    width: int = 16
    """Columns (inputs) of a block."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a block of {self.height}x{self.width} is empty")

    def _blocks(self, matrix: Tensor) -> Tensor:
        """``[.. rows cols]`` as ``[.. rows/height height cols/width width]``."""
        blocks: Tensor = matrix.unflatten(-1, (-1, self.width)).unflatten(-3, (-1, self.height))
        return blocks

    @property
    def rows_may_move(self) -> bool:
        return self.height == 1

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        blocks = self._blocks(scores)
        totals = blocks.sum(dim=(-3, -1))
        keep = keep_highest(totals.flatten(-2), sparsity).view(totals.shape)
        return self._spread(keep, blocks, scores)

    def cover(self, nonzero: Tensor) -> Tensor:
        blocks = self._blocks(nonzero)
        return self._spread(blocks.any(-1).any(-2), blocks, nonzero)

    @staticmethod
    def _spread(keep: Tensor, blocks: Tensor, matrix: Tensor) -> Tensor:
        """One entry a block, repeated over the block's weights."""
        return keep.unsqueeze(-1).unsqueeze(-3).expand_as(blocks).reshape(matrix.shape)

    def position_bits(self, rows: int, cols: int) -> int:
        return (rows // self.height) * (cols // self.width)

    def window(self, cols: int, blocksize: int) -> int:
        return min(cols, max(self.width, blocksize // self.width * self.width))

    def fault(self, rows: int, cols: int) -> str | None:
        if rows % self.height or cols % self.width:
            return f"{rows}x{cols} does not divide into blocks of {self.height}x{self.width}"
        return None
