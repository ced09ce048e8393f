"""Size of a unit's activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.stats import Needs
from ..core.units import Units


@final
@importance("activation", paper="arXiv:2407.14679", cost="one pass of the model")
@dataclass(frozen=True)
class Activation(Importance):
    """Mean |x| over each window, L2 over windows and over a unit's channels, summed over what reads it (Minitron)."""

    needs: ClassVar[Needs] = Needs.WINDOWS

    def score(self, units: Units) -> Tensor:
        scores = [reader.summed(reader.stats.moments["window_sq"][0]).sqrt() for reader in units.readers]
        return sum(scores[1:], scores[0])
