"""So many bits a symbol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..core.coder import CHUNK, Coder
from ..core.registry import coder
from ..core.storage import expect


@final
@coder("fixed", paper="", cost="the same bits for every symbol; what kernels are near to")
@dataclass(frozen=True)
class Fixed(Coder):
    """Every symbol in the same bits, the lowest first, one behind the other.

    >>> Fixed().write("values", torch.tensor([1, 2, 7], dtype=torch.uint8), 3)["values"].tolist()
    [209, 1]
    """

    def planned_bits(self, counts: Tensor) -> float:
        return int(counts.sum()) * (len(counts) - 1).bit_length()

    def write(self, name: str, symbols: Tensor, bits: int) -> dict[str, Tensor]:
        chunks = [torch.from_numpy(_packed(chunk.numpy(), bits)) for chunk in symbols.split(CHUNK)]
        return {name: torch.cat(chunks)}

    def read(self, name: str, parts: Mapping[str, Tensor], count: int, bits: int) -> Iterator[Tensor]:
        stream = expect(parts, name, torch.uint8, (-(-count * bits // 8),)).numpy()
        for first in range(0, count, CHUNK):
            size, start = min(CHUNK, count - first), first * bits // 8
            yield torch.from_numpy(_unpacked(stream[start : start - (-size * bits // 8)], size, bits))


def _packed(symbols: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return symbols
    return np.packbits(np.unpackbits(symbols[:, None], axis=1, count=bits, bitorder="little").ravel(), bitorder="little")


def _unpacked(stream: np.ndarray, count: int, bits: int) -> np.ndarray:
    if bits == 8:
        return stream
    found = np.unpackbits(stream, bitorder="little")
    if found[count * bits :].any():
        raise ValueError(f"bits are set beyond the last of {count} symbols")
    return np.packbits(found[: count * bits].reshape(count, bits), axis=1, bitorder="little").ravel()
