"""Block influence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..core.depth import DepthSurvey
from ..core.registry import depth
from ..core.roles import Depth


@final
@depth("influence", paper="arXiv:2403.03853", cost="one pass of the model")
@dataclass(frozen=True)
class Influence(Depth):
    """Blocks that turn their input least go: 1 − mean cos(h_in, h_out) over tokens (ShortGPT, eq. 1)."""

    def choose(self, survey: DepthSurvey, drop: int) -> list[int]:
        return sorted((1 - survey.passage.cosine).argsort(stable=True)[:drop].tolist())
