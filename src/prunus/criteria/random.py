"""Random pruning, the control of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Stats


@final
@criterion("random", paper="arXiv:2202.02643", cost="no data")
@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores: the same for the same weight and seed, independent between layers.

    >>> from torch import tensor
    >>> scores = Random(seed=1).score(tensor([[3.0, -1.0]]), Stats.none())
    >>> bool((scores == Random(seed=1).score(tensor([[3.0, -1.0]]), Stats.none())).all())
    True
    """

    seed: int = 0
    """Seed of the generator; the weight's own values are mixed into it."""

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        bits = weight.detach().to("cpu", torch.float32).contiguous().view(torch.int32)
        mixed = int(bits.sum(dtype=torch.int64)) * 1_000_003 + self.seed
        generator = torch.Generator().manual_seed(mixed % 2**63)
        return torch.rand(weight.shape, generator=generator).to(weight.device)
