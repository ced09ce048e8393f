"""A bit a weight."""

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
@storage("bitmask", paper="", cost="a bit a weight")
@dataclass(frozen=True)
class Bitmask(StorageFormat):
    """A bit for every weight, set where it is kept: ``mask`` uint8 ``[rows ⌈cols/8⌉]``, the first column in the lowest bit.

    >>> Bitmask().write(torch.tensor([[True, False, True, True]]))["mask"].tolist()
    [[13]]
    """

    parts: ClassVar[tuple[str, ...]] = ("mask",)

    def fault(self, keep: Tensor) -> str | None:
        return None

    def holds(self, keep: Tensor) -> Tensor:
        return keep

    def position_bits(self, rows: int, cols: int, held: int) -> int:
        return rows * cols

    def write(self, held: Tensor) -> dict[str, Tensor]:
        return {"mask": pack_bits(held)}

    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        return unpack_bits(expect(parts, "mask", torch.uint8, (rows, -(-cols // 8))), cols)
