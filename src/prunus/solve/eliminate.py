"""Taking inputs out of a least-squares fit one group after another, the cheapest first (optimal brain surgeon).

Without the inputs S the others make up for them with W ← W − W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,: and the error grows by
tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ). Neither needs W itself: A = WᵀW and H⁻¹ are enough, and of both only the rows of S and the blocks
on the diagonal. So changes are kept as factors, and laid on the whole matrices a few dozen at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HELD = 64
"""Columns that go before the matrices are brought up to date."""


class Elimination:
    """Units ``columns [units each]`` of inputs, of which some go: ``costs`` says what each would add to the error.

    ``weight [rows cols]``; ``inverse [cols cols]`` is H⁻¹, which is overwritten.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, columns: Tensor) -> None:
        self.columns = columns
        self._square = weight.T @ weight
        self._inverse = inverse
        self._squares = self._blocks(self._square)
        self._inverses = self._blocks(inverse)
        room = max(_HELD, columns.shape[1])
        self._held = weight.new_empty(4, room, weight.shape[1])
        self._count = 0

    def _blocks(self, matrix: Tensor) -> Tensor:
        """The units' own blocks of a matrix, ``[units each each]``, in fp64: they are updated many times."""
        return matrix[self.columns.unsqueeze(2), self.columns.unsqueeze(1)].double()

    def costs(self) -> Tensor:
        """The error that each unit would add, ``[units]``, in fp64; 0 for those that are gone."""
        if self.columns.shape[1] == 1:
            return self._squares.flatten() / self._inverses.flatten()
        costs: Tensor = torch.linalg.solve(self._inverses, self._squares).diagonal(dim1=1, dim2=2).sum(-1)
        return costs

    def drop(self, unit: int) -> None:
        """Take a unit out; the others make up for it."""
        at, each = self.columns[unit], self.columns.shape[1]
        if self._count + each > self._held.shape[1]:
            self._settle()
        inverse_rows, changes, square_rows, rests = self._held[:, : self._count]
        rows = self._inverse[at] - inverse_rows[:, at].T @ changes
        squares = self._square[at] - square_rows[:, at].T @ changes - changes[:, at].T @ rests
        change = torch.linalg.inv(rows[:, at].double()).to(rows.dtype) @ rows
        rest = squares - squares[:, at] @ change
        new = torch.stack([rows, change, squares, rest])
        self._held[:, self._count : self._count + each] = new
        self._count += each
        rows, change, squares, rest = new[:, :, self.columns].double().permute(0, 2, 3, 1)  # [units each gone]
        self._inverses -= rows @ change.mT
        self._squares -= squares @ change.mT + change @ rest.mT
        self._squares[unit] = 0
        self._inverses[unit] = torch.eye(each, dtype=torch.float64, device=at.device)

    def _settle(self) -> None:
        """Lay what is held on the matrices."""
        inverse_rows, changes, square_rows, rests = self._held[:, : self._count]
        self._inverse.addmm_(inverse_rows.T, changes, alpha=-1)
        self._square.addmm_(square_rows.T, changes, alpha=-1).addmm_(changes.T, rests, alpha=-1)
        self._count = 0
