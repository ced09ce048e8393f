"""First-order estimate of what a unit's loss would be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.stats import Needs
from ..core.units import Units


@final
@importance("taylor", paper="arXiv:2305.11627", cost="a forward and a backward pass of the model")
@dataclass(frozen=True)
class Taylor(Importance):
    """|Σ w·∂L/∂w| over all weights of a unit (LLM-Pruner, eq. 3): the loss's change to first order if it were zero."""

    needs: ClassVar[Needs] = Needs.GRAD

    elementwise: bool = False
    """Σ |w·∂L/∂w| instead: each weight's change for itself."""

    def score(self, units: Units) -> Tensor:
        products = [reader.by_unit * reader.own["grad"][:, reader.columns].transpose(0, 1) for reader in units.readers]
        products += [writer.weight * writer.own["grad"] for writer in units.writers if "grad" in writer.own]
        flat = torch.cat([product.flatten(1) for product in products], 1)
        return flat.abs().sum(1) if self.elementwise else flat.sum(1).abs()
