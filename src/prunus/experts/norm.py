"""Size of an expert's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import experts
from ..core.roles import ExpertImportance
from ..core.routed import Routed


@final
@experts("norm", paper="arXiv:2407.14679", cost="one pass of the model")
@dataclass(frozen=True)
class Norm(ExpertImportance):
    """Mean of ‖f_j(x)‖₂ over the tokens routed to the expert, whatever its gate (Minitron)."""

    def score(self, routed: Routed) -> Tensor:
        return routed.mean(routed.norms)
