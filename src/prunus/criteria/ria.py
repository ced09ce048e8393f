"""RIA: relative importance and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Needs, Stats


@final
@criterion("ria", paper="https://iclr.cc/virtual/2024/poster/18549", cost="one pass over the inputs")
@dataclass(frozen=True)
class Ria(Criterion):
    """A weight's share of its column and row, times its input: (|W_ij|/Σ_i|W_ij| + |W_ij|/Σ_j|W_ij|)·‖X_j‖₂^a (eq. 4).

    The sums are those of the dense matrix, so that no input and no output loses all its weights. A row or column of zeros
    scores zero.

    >>> from torch import tensor
    >>> totals = {"row_total": tensor([[4.0]]), "column_total": tensor([[3.0, 1.0]])}
    >>> Ria().score(tensor([[3.0, -1.0]]), Stats.of(tokens=8, norm_sq=tensor([1.0, 16.0]), **totals))
    tensor([[1.7500, 2.5000]])
    """

    needs: ClassVar[Needs] = Needs.NORM
    relative: ClassVar[bool] = True

    power: float = 0.5
    """The exponent a of the input norm; 0 is relative importance alone."""

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        size = weight.abs()
        share = size / _not_zero(stats.of_weights("column_total")) + size / _not_zero(stats.of_weights("row_total"))
        return share * stats.input_norm() ** self.power


def _not_zero(total: Tensor) -> Tensor:
    return total.masked_fill(total == 0, 1.0)
