"""Chance, the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.units import Units


@final
@importance("random", paper="arXiv:1803.03635", cost="no data")
@dataclass(frozen=True)
class Random(Importance):
    """Units at random: what every other importance has to beat."""

    seed: int = 0
    """Of the choice, the same for all layers of a size."""

    def score(self, units: Units) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        device = units.readers[0].weight.device if units.readers else torch.device("cpu")
        return torch.rand(units.count, generator=generator).to(device)
