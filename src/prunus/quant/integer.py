"""Integer grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import grid
from ..core.roles import Grid, Levels, scale_dtype


@final
@grid("int", paper="arXiv:2210.17323", cost="one code a weight, a 16-bit scale (and a zero) a group")
@dataclass(frozen=True)
class Integer(Grid):
    """Evenly spaced values, scale · (code − zero), with codes of a few bits.

    ``symmetric``: codes −2^(b−1) … 2^(b−1) − 1 and no zero; otherwise 0 … 2^b − 1 with a zero among them. Scales are
    rounded to 16-bit floats, as they are stored. Of ``search`` scales, from the one that reaches the largest weight down to
    just above half of it, a group takes that of the smallest squared error, which SparseGPT's elimination weights by
    1/U_jj².

    >>> levels = Integer(bits=4, group=0).fit(torch.tensor([[[7.0, -3.0, 1.2]]]), torch.ones(1, 1, 3), torch.float32)
    >>> Integer(bits=4, group=0).codes(torch.tensor([[[7.0, -3.0, 1.2]]]), levels)
    tensor([[[ 7., -3.,  1.]]])
    """

    bits: int = 4
    """Bits of a code, 2 to 8."""

    group: int = 64
    """Consecutive inputs of a row that share a scale; 0: the whole row."""

    symmetric: bool = True
    """Codes on both sides of zero, and no zero to store."""

    search: int = 16
    """How many scales are tried."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.group < 0 or self.search < 1:
            raise ValueError(
                f"bits {self.bits} must be 2 to 8, group {self.group} at least 0 and search {self.search} at least 1"
            )

    @property
    def lowest(self) -> int:
        """The lowest code."""
        return -(1 << self.bits - 1) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The highest code."""
        return self.lowest + (1 << self.bits) - 1

    @property
    def zero_bits(self) -> int:
        return 0 if self.symmetric else self.bits

    @property
    def code_dtype(self) -> torch.dtype:
        return torch.int8 if self.symmetric else torch.uint8

    def fit(self, weight: Tensor, importance: Tensor, stored: torch.dtype) -> Levels:
        low, high = weight.amin(-1, keepdim=True).clamp_max(0), weight.amax(-1, keepdim=True).clamp_min(0)
        best, least = self._levels(low, high, 1.0, stored), None
        for step in range(self.search):
            levels = self._levels(low, high, 1 - step / (2 * self.search), stored)
            error = ((self.snap(weight, levels) - weight).square() * importance).sum(-1, keepdim=True)
            if least is None:
                best, least = levels, error
                continue
            closer = error < least
            best = Levels(torch.where(closer, levels.scale, best.scale), torch.where(closer, levels.zero, best.zero))
            least = torch.where(closer, error, least)
        return best

    def _levels(self, low: Tensor, high: Tensor, part: float, stored: torch.dtype) -> Levels:
        """Levels that reach ``part`` of the range from ``low`` to ``high``."""
        if self.symmetric:
            scale = _stored(part * torch.maximum(high, -low) / self.highest, stored)
            return Levels(scale, torch.zeros_like(scale))
        scale = _stored(part * (high - low) / self.highest, stored)
        return Levels(scale, (-part * low / scale).round().clamp(self.lowest, self.highest))

    def codes(self, weight: Tensor, levels: Levels) -> Tensor:
        return (weight / levels.scale + levels.zero).round_().clamp_(self.lowest, self.highest)


def _stored(scale: Tensor, stored: torch.dtype) -> Tensor:
    """The scale as 16 bits hold it; 1 where a group is all zero or too small for them."""
    kept = scale.to(scale_dtype(stored)).to(scale.dtype)
    return torch.where(kept > 0, kept, torch.ones_like(kept))
