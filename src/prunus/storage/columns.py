"""The column of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import storage
from ..core.storage import StorageFormat, expect

_MOST = 1 << 16


@final
@storage("columns", paper="", cost="16 bits a value, 32 a row")
@dataclass(frozen=True)
class Columns(StorageFormat):
    """The column of every value, and how many values each row has: the smallest above 15/16 zeros.

    ``columns`` uint8 ``[values 2]``, low byte first, rising within a row; ``counts`` int32 ``[rows]``. Matrices of up to
    65,536 columns.

    >>> Columns().write(torch.tensor([[False, True], [False, False]]))["columns"].tolist()
    [[1, 0]]
    """

    parts: ClassVar[tuple[str, ...]] = ("columns", "counts")

    def fault(self, keep: Tensor) -> str | None:
        cols = keep.shape[1]
        return f"{cols} columns, and 16 bits number {_MOST}" if cols > _MOST else None

    def holds(self, keep: Tensor) -> Tensor:
        return keep

    def position_bits(self, rows: int, cols: int, held: int) -> int:
        return 16 * held + 32 * rows

    def write(self, held: Tensor) -> dict[str, Tensor]:
        columns = held.nonzero()[:, 1]
        both = torch.stack((columns & 255, columns >> 8), dim=-1).to(torch.uint8)
        return {"columns": both, "counts": held.sum(1, dtype=torch.int32)}

    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        if cols > _MOST:
            raise ValueError(f"it has {cols} columns, and 16 bits number {_MOST}")
        counts = expect(parts, "counts", torch.int32, (rows,)).to(torch.int64)
        if int(counts.min()) < 0 or int(counts.max()) > cols:
            raise ValueError(f"its rows hold {int(counts.min())} to {int(counts.max())} values of {cols}")
        both = expect(parts, "columns", torch.uint8, (int(counts.sum()), 2)).to(torch.int64)
        columns = both[:, 0] | both[:, 1] << 8
        if columns.numel() and int(columns.max()) >= cols:
            raise ValueError(f"its columns go up to {int(columns.max())}, and there are {cols}")
        places = torch.arange(rows).repeat_interleave(counts) * cols + columns
        if not bool((places[1:] > places[:-1]).all()):
            raise ValueError("its columns do not rise within a row")
        held = torch.zeros(rows * cols, dtype=torch.bool)
        held[places] = True
        return held.view(rows, cols)
