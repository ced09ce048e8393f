"""N:M sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import pattern
from ..core.roles import Pattern
from ..core.sparsity import Target
from .lowest import keep_highest


@final
@pattern("nm", paper="arXiv:2104.08378", cost="2:4 runs on sparse tensor cores; packed on CPUs")
@dataclass(frozen=True)
class NM(Pattern):
    """N weights kept of every M consecutive inputs (2:4 keeps two of four).

    >>> from torch import tensor
    >>> NM(2, 4).select(tensor([[4.0, 1.0, 3.0, 2.0]]), 0.5)
    tensor([[ True, False,  True, False]])
    """

    n: int = 2
    """Weights kept in a group."""

    m: int = 4
    """Weights in a group."""

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(f"{self.n}:{self.m} must keep 0 < N < M weights of a group")

    @classmethod
    def of(cls, target: Target | None) -> NM | None:
        """The pattern that a target names (``2:4``); None where it is a plain fraction.

        >>> NM.of(Target(0.5, 2, 4)), NM.of(Target(0.5))
        (NM(n=2, m=4), None)
        """
        if target is None or target.n is None or target.m is None:
            return None
        return cls(target.n, target.m)

    @property
    def within_rows(self) -> bool:
        return True

    @property
    def own_sparsity(self) -> float:
        return 1 - self.n / self.m

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        if abs(sparsity - self.own_sparsity) > 1e-9:
            raise ValueError(f"{self.n}:{self.m} has sparsity {self.own_sparsity}, not {sparsity}")
        groups = scores.unflatten(-1, (-1, self.m))
        highest: list[Tensor] = []  # of every group, in falling order
        for place in groups.unbind(-1):
            rest = place
            for k, above in enumerate(highest):
                highest[k], rest = torch.maximum(above, rest), torch.minimum(above, rest)
            if len(highest) < self.n:
                highest.append(rest)
        keep = groups >= highest[-1].unsqueeze(-1)
        if int(torch.count_nonzero(keep)) != highest[-1].numel() * self.n:  # equal scores at the threshold
            keep = keep_highest(groups, sparsity)
        chosen: Tensor = keep.flatten(-2)
        return chosen

    def cover(self, nonzero: Tensor) -> Tensor:
        return nonzero

    def violation(self, keep: Tensor) -> str | None:
        if keep.shape[-1] % self.m:
            return self.fault(keep.shape[-2], keep.shape[-1])
        most = int(keep.unflatten(-1, (-1, self.m)).sum(-1, dtype=torch.int16).max())
        return f"a group of {self.m} keeps {most}, more than {self.n}" if most > self.n else None

    def window(self, cols: int, blocksize: int) -> int:
        return self.m

    def position_bits(self, rows: int, cols: int) -> int:
        return rows * (cols // self.m) * min(self.m, self.n * (self.m - 1).bit_length())

    def swap_group(self, cols: int) -> int | None:
        return self.m

    def fault(self, rows: int, cols: int) -> str | None:
        return f"{cols} columns do not divide into groups of {self.m}" if cols % self.m else None
