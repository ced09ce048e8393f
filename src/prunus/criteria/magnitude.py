"""Magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Stats


@final
@criterion("magnitude", paper="arXiv:1506.02626", cost="no data")
@dataclass(frozen=True)
class Magnitude(Criterion):
    """Absolute value of the weight, |W| (Han et al. 2015).

    >>> from torch import tensor
    >>> Magnitude().score(tensor([[3.0, -1.0]]), Stats.none())
    tensor([[3., 1.]])
    """

    elementwise: ClassVar[bool] = True

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        return weight.abs()
