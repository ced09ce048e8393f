"""Aim, in part, at what the layer gives in the dense model, so that errors made upstream are mended too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.matmul import linear
from ..core.registry import target
from ..core.roles import OutputTarget
from ..core.stats import Needs, Stats


@final
@target(
    "dense",
    paper="arXiv:2504.02692",
    cost="the dense model's hidden states, a pass over them, a factorisation and four products",
)
@dataclass(frozen=True)
class Dense(OutputTarget):
    """Y = XWᵀ + σ((X₀ − X)Wᵀ + s₀ − s), with X the inputs as pruned and X₀ the dense model's.

    s is the residual stream that Y is added to, s₀ the dense model's; where a norm stands between them, or Y is added to
    none, that part is left out. It is the asymmetric calibration of GPTAQ, for any solver, of a share of the error, and
    with the residual stream. A share σ = 1 would make the stream behind the layer what it is in the dense model. But least
    squares cannot tell what pruning put into X from what it took out, and shrinks weights on whatever is noisy: a share of
    0.75 is far worse than none, a smaller one better than either (docs/choosing.md has the measurements). Experts, which
    see other tokens in the dense model than here, and layers that share their input and write to the stream keep the target
    ``sparse``; their notes say so.
    """

    needs: ClassVar[Needs] = Needs.DRIFT

    share: float = 0.3
    """How much of the upstream error each layer tries to mend."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share} must be in (0, 1]")

    def beyond(self, weight: Tensor, stats: Stats) -> Tensor | None:
        if stats.has("behind"):
            return self.share * stats.of_weights("behind")
        if not stats.has("drift"):
            return None
        moved = [linear(one, drift.mT) for one, drift in zip(weight, stats.drift(), strict=True)]
        return torch.stack(moved).mul_(self.share)
