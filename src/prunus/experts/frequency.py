"""How often an expert is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import experts
from ..core.roles import ExpertImportance
from ..core.routed import Routed


@final
@experts("frequency", paper="arXiv:2402.14800", cost="one pass of the model")
@dataclass(frozen=True)
class Frequency(ExpertImportance):
    """Number of tokens routed to the expert."""

    def score(self, routed: Routed) -> Tensor:
        return routed.tokens.double()
