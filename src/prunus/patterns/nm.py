"""N:M sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import pattern
from ..core.roles import Pattern
from ..core.sparsity import Target


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
        if self.m > 127:
            raise ValueError(f"{self.n}:{self.m}: groups of more than 127 weights are not supported; use unstructured")

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
        places = scores.unflatten(-1, (-1, self.m)).unbind(-1)  # m of [.. groups]
        beaten = torch.zeros(self.m, *places[0].shape, dtype=torch.int8, device=scores.device)
        tally = beaten.unbind(0)
        for high in range(1, self.m):
            for low in range(high):
                upset = torch.ge(places[high], places[low]).view(torch.int8)  # of equal scores the higher index wins
                tally[high].add_(upset)
                tally[low].sub_(upset)
        # place i is also better than the m - 1 - i places after it, less those that were taken off it above
        enough = torch.arange(1 - self.n, 1 - self.n + self.m, dtype=torch.int8, device=scores.device)
        return (beaten.movedim(0, -1) >= enough).reshape(scores.shape)

    def cover(self, nonzero: Tensor) -> Tensor:
        return nonzero

    def violation(self, keep: Tensor) -> str | None:
        if keep.shape[-1] % self.m:
            return self.fault(keep.shape[-2], keep.shape[-1])
        most = int(keep.unflatten(-1, (-1, self.m)).sum(-1).max())
        return f"a group of {self.m} keeps {most}, more than {self.n}" if most > self.n else None

    def window(self, cols: int, blocksize: int) -> int:
        return self.m

    def fault(self, rows: int, cols: int) -> str | None:
        return f"{cols} columns do not divide into groups of {self.m}" if cols % self.m else None
