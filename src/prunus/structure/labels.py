"""Labels: which places along a tensor's dimensions are the same unit.

A place along a dimension is an *atom*, a number. Tensors that flow through a model carry the atoms of the parameters that
made them; what an operation does to a shape it does to the atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Atoms = NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """Atoms of some dimensions of a tensor: ``atoms`` has one axis for each of ``dims``, which ascend.

    Several dimensions at once: a projection's rows seen as ``[heads head_dim]`` are one field over both.
    """

    dims: tuple[int, ...]
    atoms: Atoms

    def without_constant(self) -> Field | None:
        """The same over those dimensions alone along which the atoms differ; None if there are none."""
        dims, atoms = list(self.dims), self.atoms
        if not atoms.size:
            return None
        for axis in reversed(range(len(dims))):
            first = atoms.take([0], axis)
            if atoms.shape[axis] == 1 or bool((atoms == first).all()):
                atoms = first.squeeze(axis)
                del dims[axis]
        return Field(tuple(dims), atoms) if dims else None


Labels = tuple[Field, ...]
"""The fields of one tensor; no dimension is in two of them."""

NONE: Labels = ()


def field_of(labels: Labels, dim: int) -> Field | None:
    """The field that a dimension is in."""
    return next((field for field in labels if dim in field.dims), None)


def moved(labels: Labels, places: Sequence[int | None]) -> Labels:
    """Labels after dimension d has become ``places[d]``; None: it is gone, and so is a field that it was in."""
    found = []
    for field in labels:
        new = [place for place in (places[dim] for dim in field.dims) if place is not None]
        if len(new) == len(field.dims):
            order = np.argsort(np.array(new, dtype=np.int64), kind="stable")
            dims = tuple(new[k] for k in order)
            found.append(Field(dims, field.atoms.transpose(order)))
    return tuple(found)


def taken(labels: Labels, dim: int, index: NDArray[np.int64]) -> Labels:
    """Labels of the places ``index`` along a dimension."""
    return tuple(
        Field(field.dims, field.atoms.take(index, field.dims.index(dim))) if dim in field.dims else field
        for field in labels
    )


class Segment(NamedTuple):
    """Consecutive dimensions that a reshape turns into consecutive others of the same number of elements."""

    old: tuple[int, ...]
    new: tuple[int, ...]


def segments(old: Sequence[int], new: Sequence[int]) -> list[Segment]:
    """How a reshape splits into independent parts.

    >>> segments([2, 6, 5], [2, 2, 3, 5])
    [Segment(old=(0,), new=(0,)), Segment(old=(1,), new=(1, 2)), Segment(old=(2,), new=(3,))]
    """
    found: list[Segment] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        while prod(old[k] for k in left) != prod(new[k] for k in right):
            if prod(old[k] for k in left) < prod(new[k] for k in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        found.append(Segment(tuple(left), tuple(right)))
    return found


def reshaped(labels: Labels, old: Sequence[int], new: Sequence[int]) -> tuple[Labels, Labels]:
    """Labels of a tensor of shape ``old`` seen as ``new``; and fields that cannot be followed, two in one new dimension.

    A field that is merged with unlabelled dimensions is repeated along them; one that is split becomes a field over the
    parts, or over those of them along which it differs.
    """
    parts = segments(old, new)
    followed: list[Field] = []
    lost: list[Field] = []
    claimed: set[int] = set()
    for field in labels:
        touched = [k for k, part in enumerate(parts) if set(part.old) & set(field.dims)]
        if any(k in claimed and len(parts[k].old) > 1 for k in touched):
            lost.append(field)
            continue
        claimed |= set(touched)
        before = [dim for k in touched for dim in parts[k].old]
        after = [dim for k in touched for dim in parts[k].new]
        shape = [field.atoms.shape[field.dims.index(dim)] if dim in field.dims else 1 for dim in before]
        whole = np.broadcast_to(field.atoms.reshape(shape), [old[dim] for dim in before])
        plain = Field(tuple(after), whole.reshape([new[dim] for dim in after])).without_constant()
        if plain is not None:
            followed.append(plain)
    return tuple(followed), tuple(lost)
