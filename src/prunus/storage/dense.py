"""Every weight, zeros too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.registry import storage
from ..core.storage import StorageFormat


@final
@storage("dense", paper="", cost="every weight, no positions")
@dataclass(frozen=True)
class Dense(StorageFormat):
    """All weights in their order: for matrices that were quantised and not pruned."""

    def fault(self, keep: Tensor) -> str | None:
        return None

    def holds(self, keep: Tensor) -> Tensor:
        return torch.ones_like(keep)

    def position_bits(self, rows: int, cols: int, held: int) -> int:
        return 0

    def write(self, held: Tensor) -> dict[str, Tensor]:
        return {}

    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        return torch.ones(rows, cols, dtype=torch.bool)
