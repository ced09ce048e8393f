"""Mask: which weights are kept. True = kept, everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .roles import Pattern


@dataclass(frozen=True)
class Mask:
    """``keep [batch rows cols]``, True = kept, and the pattern that it obeys, verified on construction.

    Raises:
        ValueError: if ``keep`` is not boolean, not three-dimensional, or breaks the pattern.
    """

    keep: Tensor
    pattern: Pattern

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.dim() != 3:
            raise ValueError(f"a mask is bool [batch rows cols], not {self.keep.dtype} {list(self.keep.shape)}")
        violation = self.pattern.violation(self.keep)
        if violation:
            raise ValueError(f"mask breaks pattern {self.pattern}: {violation}")

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in [0, 1]."""
        return 1.0 - float(self.keep.sum(dtype=torch.int64)) / self.keep.numel()
