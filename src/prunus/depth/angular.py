"""Angular distance across consecutive blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch.nn import functional

from ..core.depth import DepthSurvey
from ..core.registry import depth
from ..core.roles import Depth


@final
@depth("angular", paper="arXiv:2403.17887", cost="one pass of the model")
@dataclass(frozen=True)
class Angular(Depth):
    """The n consecutive blocks go that turn the last token least: arccos(cos(h_l, h_{l+n}))/π (Gromov et al., eq. 3)."""

    def choose(self, survey: DepthSurvey, drop: int) -> list[int]:
        last = survey.passage.last.double()
        cosines = functional.cosine_similarity(last[:-drop], last[drop:], dim=-1)
        distance = (cosines.clamp(-1, 1).arccos() / math.pi).mean(-1)
        first = int(distance.argmin())
        return list(range(first, first + drop))
