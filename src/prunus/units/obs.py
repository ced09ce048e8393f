"""Optimal brain surgeon for whole units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import importance
from ..core.roles import Importance
from ..core.stats import Needs
from ..core.units import Reader, Units
from ..solve.eliminate import Elimination
from ..solve.factor import inverse_factor


@final
@importance("obs", paper="arXiv:2302.04089", cost="a Gram, and its inverse updated for every unit that goes")
@dataclass(frozen=True)
class OBS(Importance):
    """Error of the layer when a unit goes and the others make up for it, w_u ([H⁻¹]_uu)⁻¹ w_uᵀ (ZipLM, eq. 3).

    Units go one by one, the cheapest first, and what is left is updated in between.
    """

    needs: ClassVar[Needs] = Needs.GRAM

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal."""

    def score(self, units: Units) -> Tensor:
        return _costs(self._eliminations(units.readers)).float()

    def order(self, units: Units) -> Tensor:
        return self._gone(units, units.count)

    def choose(self, units: Units, kept: int) -> Tensor:
        stays = torch.ones(units.count, dtype=torch.bool)
        stays[self._gone(units, (units.count - kept) // units.groups)] = False
        return stays.nonzero().flatten()

    def _gone(self, units: Units, room: int) -> Tensor:
        """The units that go, the first first: of every group as many as there is ``room`` for."""
        eliminations = self._eliminations(units.readers)
        size = units.count // units.groups
        group = torch.arange(units.count, device=eliminations[0].columns.device) // size
        left = [min(room, size)] * units.groups
        barred = torch.zeros(units.count, dtype=torch.float64, device=group.device)
        gone = []
        for _ in range(sum(left)):
            unit = int((_costs(eliminations) + barred).argmin())
            gone.append(unit)
            for elimination in eliminations:
                elimination.drop(unit)
            barred[unit] = torch.inf
            left[unit // size] -= 1
            if not left[unit // size]:
                barred[group == unit // size] = torch.inf
        return torch.tensor(gone, dtype=torch.long)

    def _eliminations(self, readers: Sequence[Reader]) -> list[Elimination]:
        found = []
        for reader in readers:
            factor = inverse_factor(reader.stats, self.damp, reader.name)
            inverse = factor.upper[0].T @ factor.upper[0]
            found.append(Elimination(reader.weight, inverse, reader.columns))
        return found


def _costs(eliminations: Sequence[Elimination]) -> Tensor:
    return torch.stack([one.costs() for one in eliminations]).sum(0)
