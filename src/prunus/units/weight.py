"""Weight norm of a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.units import Units


@final
@importance("weight", paper="arXiv:1608.08710", cost="no data")
@dataclass(frozen=True)
class Weight(Importance):
    """Sum of |w|^p over all weights that a unit has.

    >>> from torch import tensor
    >>> from prunus.core.stats import Stats
    >>> from prunus.core.units import Reader
    >>> Weight().score(Units(2, [Reader(tensor([[1.0, -3.0]]), tensor([[0], [1]]), Stats.none())]))
    tensor([1., 9.])
    """

    power: float = 2.0
    """The exponent p."""

    def score(self, units: Units) -> Tensor:
        parts = [reader.by_unit.flatten(1) for reader in units.readers] + [writer.weight for writer in units.writers]
        scores: Tensor = sum(part.abs().pow(self.power).sum(1) for part in parts)  # type: ignore[assignment]
        return scores
