"""Channel permutation: the inputs of a layer in another order, so that N:M costs less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.problem import Problem
from ..core.registry import stage
from ..core.roles import BlockStage
from ..core.stats import Needs
from .channels import channel_permutation


@final
@stage("permute", paper="https://iclr.cc/virtual/2024/poster/18549", cost="assignment problems in every folded layer")
@dataclass(frozen=True)
class Permute(BlockStage):
    """Orders the inputs of a layer so that N of every M consecutive ones are easier to spare (RIA, sec. 3.2); N:M only.

    Only where the order folds into the layers before, whose outputs are put in the same order: the feed-forward's hidden
    channels, and an attention head's values (one order a key/value head). The dense model would give the same.
    """

    arranges: ClassVar[bool] = True

    rounds: int = 1
    """How often every slot of the groups is assigned anew; 0 only deals the channels out."""

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds {self.rounds} must be at least 0")

    def arrange(self, problem: Problem, groups: int, copies: int) -> Tensor | None:
        sparsity, m = problem.pattern.own_sparsity, problem.pattern.swap_group(problem.site.cols)
        width = problem.site.cols // (groups * copies)
        if sparsity is None or m is None or width % m:
            return None
        channels = _scores(problem)[0].view(-1, groups, copies, width).permute(1, 0, 2, 3).flatten(1, 2)
        kept = round(m * (1 - sparsity))
        return torch.stack([channel_permutation(group, kept, m, self.rounds) for group in channels])


def _scores(problem: Problem) -> Tensor:
    """The criterion's scores; the energy of weight and input where those need a solver's factorisation."""
    if Needs.GRAM in problem.criterion.needs:
        return problem.aimed.square() * problem.stats.norm_sq().unsqueeze(-2)
    return problem.scores()
