"""The loss without a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..core.depth import DepthSurvey
from ..core.registry import depth
from ..core.roles import Depth


@final
@depth(
    "loss",
    paper="arXiv:2407.14679",
    cost="half a pass of the model a block, and `shortlist` halves more for each that goes",
)
@dataclass(frozen=True)
class Loss(Depth):
    """Blocks go whose leaving out raises the calibration loss least, on the first 256 tokens of up to eight windows."""

    greedy: bool = True
    """One at a time, each judged with those before it gone; otherwise each is judged alone."""
    shortlist: int = 6
    """How many blocks are judged anew when one has gone: those that raised the loss least when they were judged last."""

    def __post_init__(self) -> None:
        if self.shortlist < 1:
            raise ValueError(f"shortlist is {self.shortlist}, it must be at least 1")

    def choose(self, survey: DepthSurvey, drop: int) -> list[int]:
        dense, *alone = survey.loss_without([[], *([block] for block in range(survey.count))])
        raised = {block: loss - dense for block, loss in enumerate(alone)}
        if not self.greedy:
            return sorted(sorted(raised, key=lambda block: (raised[block], block))[:drop])
        gone: list[int] = []
        so_far = dense
        while len(gone) < drop:
            left = sorted((block for block in raised if block not in gone), key=lambda block: (raised[block], block))
            judged = left[: self.shortlist]
            losses = dict(zip(judged, survey.loss_without([[*gone, block] for block in judged]), strict=True))
            raised |= {block: loss - so_far for block, loss in losses.items()}
            gone.append(min(judged, key=lambda block: (losses[block], block)))
            so_far = losses[gone[-1]]
        return sorted(gone)
