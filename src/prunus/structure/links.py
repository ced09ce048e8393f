"""Links: which atoms go together, and which may not go at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .labels import Atoms, Field


@dataclass(frozen=True)
class Owner:
    """A dimension of a parameter (or buffer) whose places are the atoms ``start`` … ``start + size - 1``.

    ``entry``: of one matrix of a stack alone, whose places along its first dimension are the entries.
    """

    tensor: str
    dim: int
    start: int
    size: int
    entry: int | None = None


@dataclass(frozen=True)
class Averaged:
    """A module takes the mean over all of these atoms."""

    module: str
    atoms: Atoms


class Links:
    """The graph of all atoms of a trace: owners, links between them, and reasons why some have to stay."""

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self.averaged: list[Averaged] = []
        self._count = 0
        self._pairs: list[tuple[Atoms, Atoms]] = []
        self._fixed: list[tuple[Atoms, str]] = []

    def new(self, tensor: str, dim: int, size: int, entry: int | None = None) -> Atoms:
        """Atoms of their own for a dimension."""
        self.owners.append(Owner(tensor, dim, self._count, size, entry))
        return self.fresh(size)

    def fresh(self, size: int) -> Atoms:
        """Atoms that no parameter has."""
        start, self._count = self._count, self._count + size
        return np.arange(start, self._count, dtype=np.int64)

    def tie(self, one: Atoms, other: Atoms) -> None:
        """The atoms go together, each with the other's at its place; shapes broadcast."""
        if one is not other:
            left, right = np.broadcast_arrays(one, other)
            self._pairs.append((left.ravel(), right.ravel()))

    def fix(self, atoms: Atoms, reason: str) -> None:
        """The atoms have to stay."""
        if atoms.size:
            self._fixed.append((atoms.ravel(), reason))

    def average(self, module: str, atoms: Atoms) -> None:
        """The module takes the mean over them."""
        self.averaged.append(Averaged(module, atoms.ravel()))

    def collapsed(self, field: Field, dims: Sequence[int]) -> Field:
        """The field over ``dims`` alone, some of its own: what differs along the others goes together."""
        others = tuple(k for k, dim in enumerate(field.dims) if dim not in dims)
        if not others:
            return field
        first = field.atoms[tuple(slice(0, 1) if k in others else slice(None) for k in range(len(field.dims)))]
        self.tie(first, field.atoms)
        return Field(tuple(dim for dim in field.dims if dim in dims), first.squeeze(others))

    def components(self) -> NDArray[np.int64]:
        """The component of each atom, ``[atoms]``."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left = np.concatenate([pair[0] for pair in self._pairs] or [np.empty(0, np.int64)])
        right = np.concatenate([pair[1] for pair in self._pairs] or [np.empty(0, np.int64)])
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self._count, self._count))
        found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
        return found

    def reasons(self, components: NDArray[np.int64]) -> dict[int, str]:
        """Why a component has to stay, for those that have to: the first reason that was given."""
        found: dict[int, str] = {}
        for atoms, reason in self._fixed:
            for component in np.unique(components[atoms]):
                found.setdefault(int(component), reason)
        return found
