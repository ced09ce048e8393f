"""The loss without a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..core.depth import DepthSurvey
from ..core.registry import depth
from ..core.roles import Depth


@final
@depth("loss", paper="arXiv:2407.14679", cost="half a pass of the model for every block; greedy: as often as blocks go")
@dataclass(frozen=True)
class Loss(Depth):
    """Blocks go whose leaving out raises the calibration loss least."""

    greedy: bool = True
    """One at a time, each judged with those before it gone; otherwise each is judged alone."""

    def choose(self, survey: DepthSurvey, drop: int) -> list[int]:
        gone: list[int] = []
        while len(gone) < drop:
            left = [block for block in range(survey.count) if block not in gone]
            losses = survey.loss_without([[*gone, block] for block in left])
            order = sorted(range(len(left)), key=lambda k: (losses[k], left[k]))
            gone += [left[k] for k in (order[:1] if self.greedy else order[:drop])]
        return sorted(gone)
