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
from ..solve.factor import inverse_factor


@dataclass
class _State:
    """A reader as it is now: ``weight [rows cols]``, survivors at their best, and their H⁻¹, ``inverse [cols cols]``."""

    weight: Tensor
    inverse: Tensor
    columns: Tensor

    def costs(self) -> Tensor:
        """Σ_rows w_u ([H⁻¹]_uu)⁻¹ w_uᵀ for every unit ``[units]``."""
        if self.columns.shape[1] == 1:
            columns = self.columns[:, 0]
            return self.weight[:, columns].square().sum(0) / self.inverse.diagonal()[columns]
        blocks = self.inverse[self.columns.unsqueeze(2), self.columns.unsqueeze(1)]
        weights = self.weight[:, self.columns].permute(1, 2, 0)
        costs: Tensor = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))
        return costs

    def drop(self, unit: int) -> None:
        """Take a unit out: the other weights make up for it, and H⁻¹ becomes that of what is left."""
        columns = self.columns[unit]
        rows = self.inverse[columns]
        block = torch.linalg.inv(rows[:, columns])
        times = block @ rows
        self.weight.addmm_(self.weight[:, columns], times, alpha=-1)
        self.inverse.addmm_(rows.T, times, alpha=-1)
        self.weight[:, columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.inverse[columns, columns] = 1


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
        return sum(state.costs() for state in self._states(units.readers))  # type: ignore[return-value]

    def choose(self, units: Units, kept: int) -> Tensor:
        states = self._states(units.readers)
        group = torch.arange(units.count, device=states[0].weight.device) // (units.count // units.groups)
        room = torch.full((units.groups,), (units.count - kept) // units.groups, device=group.device)
        gone = torch.zeros(units.count, dtype=torch.bool, device=group.device)
        while int(room.sum()):
            costs: Tensor = sum(state.costs() for state in states)  # type: ignore[assignment]
            unit = int(costs.masked_fill(gone | (room[group] == 0), torch.inf).argmin())
            for state in states:
                state.drop(unit)
            gone[unit] = True
            room[group[unit]] -= 1
        return (~gone).nonzero().flatten()

    def _states(self, readers: Sequence[Reader]) -> list[_State]:
        states = []
        for reader in readers:
            factor = inverse_factor(reader.stats, self.damp, reader.name)
            inverse = factor.upper[0].T @ factor.upper[0]
            states.append(_State(reader.weight.clone(), inverse, reader.columns))
        return states
