"""How much a unit's contribution fluctuates about its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.stats import Needs
from ..core.units import Units


@final
@importance("fluctuation", paper="arXiv:2312.11983", cost="one pass of the model")
@dataclass(frozen=True)
class Fluctuation(Importance):
    """Variance of each channel times its weights' squared norm, Var(x_j)·‖W_:j‖² (FLAP), summed over a unit's channels.

    A constant could be put into a bias, so what does not fluctuate is worth nothing. Layers are not compared with each
    other, so scores are not standardised.
    """

    needs: ClassVar[Needs] = Needs.SUM | Needs.NORM

    def score(self, units: Units) -> Tensor:
        scores = [reader.summed(reader.stats.variance()[0] * reader.weight.square().sum(0)) for reader in units.readers]
        return sum(scores[1:], scores[0])
