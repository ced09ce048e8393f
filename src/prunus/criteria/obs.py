"""The optimal brain surgeon's saliency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Needs, Stats


@final
@criterion("obs", paper="arXiv:2301.00774", cost="a Gram and its factorisation")
@dataclass(frozen=True)
class Obs(Criterion):
    """What it costs to remove one weight and repair its row, W_ij² / [H⁻¹]_jj with H = XᵀX (SparseGPT, eq. 3).

    Inside the SparseGPT solver [H⁻¹]_jj is that of the columns not yet passed, U_jj².

    >>> from torch import tensor
    >>> Obs().score(tensor([[3.0, -1.0]]), Stats.of(tokens=8, inverse_diagonal=tensor([1.0, 0.25])))
    tensor([[9., 4.]])
    """

    needs: ClassVar[Needs] = Needs.GRAM
    elementwise: ClassVar[bool] = True

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        return weight.square() / stats.inverse_diagonal()
