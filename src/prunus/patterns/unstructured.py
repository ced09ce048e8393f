"""Unstructured sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..core.registry import pattern
from ..core.roles import Pattern
from .lowest import keep_highest


@final
@pattern("unstructured", paper="arXiv:1506.02626", cost="smaller only when packed; faster only with a sparse kernel")
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Zeros anywhere; ``scope`` says among which weights the lowest are sought.

    >>> from torch import tensor
    >>> Unstructured(scope="row").select(tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    tensor([[False,  True],
            [False,  True]])
    """

    scope: Literal["row", "output", "layer", "input"] = "layer"
    """``row`` (= ``output``: an output channel), ``layer`` (the whole matrix) or ``input`` (an input channel)."""

    @property
    def within_rows(self) -> bool:
        return self.scope in ("row", "output")

    @property
    def pools_groups(self) -> bool:
        return self.scope == "layer"

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        if self.scope == "layer":
            return keep_highest(scores.flatten(-2), sparsity).view(scores.shape)
        if self.scope == "input":
            return keep_highest(scores.transpose(-1, -2).contiguous(), sparsity).transpose(-1, -2)
        return keep_highest(scores, sparsity)

    def swap_group(self, cols: int) -> int | None:
        return None if self.scope == "input" else cols

    def cover(self, nonzero: Tensor) -> Tensor:
        return nonzero
