"""Router-weighted expert activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import experts
from ..core.roles import ExpertImportance
from ..core.routed import Routed


@final
@experts("reap", paper="arXiv:2510.13999", cost="one pass of the model")
@dataclass(frozen=True)
class Reap(ExpertImportance):
    """Mean of g_j(x)·‖f_j(x)‖₂ over the tokens routed to the expert (REAP, eq. 9): what it adds where it is used."""

    def score(self, routed: Routed) -> Tensor:
        return routed.mean(routed.gated)
