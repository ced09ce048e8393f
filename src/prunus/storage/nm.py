"""N of every M."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import storage
from ..core.storage import StorageFormat, expect
from .bits import pack_bits, unpack_bits


@final
@storage("nm", paper="arXiv:2104.08378", cost="min(M, N·⌈log2 M⌉) bits a group of M")
@dataclass(frozen=True)
class NMStorage(StorageFormat):
    """N values of every group of M columns, and where they stand in it: every row has as many, so none need be searched.

    ``positions`` uint8: a row's bits, packed. Where N·⌈log2 M⌉ is less than M, these are the N places of a group, rising,
    in ⌈log2 M⌉ bits each; else M bits a group, set where a value stands (as for 2:4). A group that keeps fewer than N holds
    its first zeros too.

    >>> NMStorage(1, 4).write(torch.tensor([[False, False, True, False]]))["positions"].tolist()
    [[2]]
    """

    n: int = 2
    """Values held of a group."""

    m: int = 4
    """Columns in a group."""

    parts: ClassVar[tuple[str, ...]] = ("positions",)

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(f"{self.n}:{self.m} must hold 0 < N < M values of a group")

    @property
    def place_bits(self) -> int:
        """Bits of a place in a group."""
        return (self.m - 1).bit_length()

    @property
    def as_mask(self) -> bool:
        """Whether positions are bits of a mask."""
        return self.n * self.place_bits >= self.m

    def fault(self, keep: Tensor) -> str | None:
        if keep.shape[1] % self.m:
            return f"{keep.shape[1]} columns do not divide into groups of {self.m}"
        most = int(keep.unflatten(1, (-1, self.m)).sum(-1, dtype=torch.int16).max())
        return f"a group of {self.m} keeps {most}, more than {self.n}" if most > self.n else None

    def holds(self, keep: Tensor) -> Tensor:
        groups = keep.unflatten(1, (-1, self.m))
        short = self.n - groups.sum(-1, keepdim=True, dtype=torch.int16)
        zeros = (~groups).cumsum(-1, dtype=torch.int16)
        held: Tensor = (groups | (zeros <= short) & ~groups).flatten(1)
        return held

    def position_bits(self, rows: int, cols: int, held: int) -> int:
        return rows * (cols // self.m) * min(self.m, self.n * self.place_bits)

    def write(self, held: Tensor) -> dict[str, Tensor]:
        if self.as_mask:
            return {"positions": pack_bits(held)}
        groups = held.unflatten(1, (-1, self.m))
        places = groups.nonzero()[:, 2].view(len(held), -1, 1)
        bits = places >> torch.arange(self.place_bits) & 1
        return {"positions": pack_bits(bits.flatten(1).to(torch.bool))}

    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        if cols % self.m:
            raise ValueError(f"its {cols} columns do not divide into groups of {self.m}")
        groups = cols // self.m
        bits = groups * min(self.m, self.n * self.place_bits)
        packed = expect(parts, "positions", torch.uint8, (rows, -(-bits // 8)))
        found = unpack_bits(packed, bits)
        if not self.as_mask:
            places = (
                found.view(rows, groups, self.n, self.place_bits).to(torch.int64) << torch.arange(self.place_bits)
            ).sum(-1)
            if int(places.max()) >= self.m or not bool((places[..., 1:] > places[..., :-1]).all()):
                raise ValueError(f"its positions are no rising places in groups of {self.m}")
            found = torch.zeros(rows, groups, self.m, dtype=torch.bool).scatter_(2, places, True).view(rows, cols)
        counts = found.view(rows, groups, self.m).sum(-1, dtype=torch.int16)
        if not bool((counts == self.n).all()):
            raise ValueError(
                f"its positions hold {int(counts.min())} to {int(counts.max())} values of {self.m}, not {self.n}"
            )
        return found
