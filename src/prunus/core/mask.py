"""Mask: which weights are kept. True = kept, everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .roles import Pattern

PRUNED = 0.05
"""Matrices with a smaller share of zeros were not pruned: their zeros are chance, a beginning, or what a coarse grid
rounded away."""


@dataclass(frozen=True)
class Mask:
    """``keep [batch rows cols]``, True = kept, and the pattern that it obeys, verified on construction.

    The batch entries in ``dense`` are kept whole, whatever the pattern.

    Raises:
        ValueError: if ``keep`` is not boolean, not three-dimensional, or breaks the pattern.
    """

    keep: Tensor
    pattern: Pattern
    dense: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.dim() != 3:
            raise ValueError(f"a mask is bool [batch rows cols], not {self.keep.dtype} {list(self.keep.shape)}")
        if not self.keep[list(self.dense)].all():
            raise ValueError(f"entries {list(self.dense)} are said to be dense, but are not")
        bound = without(self.keep, self.dense)
        violation = self.pattern.violation(bound) if len(bound) else None
        if violation:
            raise ValueError(f"mask breaks pattern {self.pattern}: {violation}")

    def pruned_survivors(self) -> Tensor:
        """What is kept, ``[batch rows cols]``, in the entries that are not left dense."""
        survivors = self.keep.clone()
        survivors[list(self.dense)] = False
        return survivors

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in [0, 1]."""
        return 1.0 - float(self.keep.sum(dtype=torch.int64)) / self.keep.numel()


def without(batch: Tensor, entries: Sequence[int]) -> Tensor:
    """``batch [batch ..]`` less some of its entries.

    >>> without(torch.tensor([5, 6, 7]), [1])
    tensor([5, 7])
    """
    if not entries:
        return batch
    return batch[[k for k in range(len(batch)) if k not in entries]]


def covered(weight: Tensor, pattern: Pattern, dense: Sequence[int] = ()) -> Tensor:
    """What ``pattern`` must keep of ``weight [batch rows cols]``, less the entries in ``dense``, so as to lose nothing."""
    return pattern.cover(without(weight, dense) != 0)
