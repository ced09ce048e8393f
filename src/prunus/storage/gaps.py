"""How many zeros lie before every value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.coder import CHUNK
from ..core.registry import storage
from ..core.storage import StorageFormat

_WIDEST = 8


@final
@storage("gaps", paper="arXiv:1510.00149", cost="a few bits a value, and values between which too many zeros lie")
@dataclass(frozen=True)
class Gaps(StorageFormat):
    """How many zeros lie between a value and the one before it, in the matrix row after row: relative indices.

    ``gaps``, a symbol a value. Where 2^bits zeros or more follow one another, every 2^bits-th of them is stored as a value
    (a filler), behind the last value too.

    >>> gaps, keep = Gaps(1), torch.tensor([[False, True, False], [False, False, True]])
    >>> gaps.holds(keep).int().tolist(), gaps.write(gaps.holds(keep))["gaps"].tolist()
    ([[0, 1, 0], [1, 0, 1]], [1, 1, 1])
    """

    bits: int = 0
    """Bits of a gap; 0: as many as take the fewest bytes, for each matrix."""

    symbols: ClassVar[str] = "gaps"

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= _WIDEST:
            raise ValueError(f"gaps of {self.bits} bits: from 1 to {_WIDEST}, or 0 for the best")

    @property
    def symbol_bits(self) -> int:
        return self.bits

    def fitted(self, keep: Tensor, value_bits: float, planned_bits: Callable[[Tensor], float]) -> Gaps:
        if self.bits:
            return self
        runs, ends = run_counts(keep)

        def total(bits: int) -> float:
            counts = gap_counts(runs, ends, bits)
            return planned_bits(counts) + value_bits * int(counts.sum())

        return replace(self, bits=min(range(1, _WIDEST + 1), key=total))

    def fault(self, keep: Tensor) -> str | None:
        return None

    def holds(self, keep: Tensor) -> Tensor:
        held = keep.flatten().clone()
        places = torch.nn.functional.pad(held.nonzero()[:, 0], (1, 1), value=-1)
        places[-1] = held.numel()
        before, fillers = places[:-1], (places.diff() - 1) >> self.bits
        long = fillers.nonzero()[:, 0]  # few: only what lies between these values has to be looked at
        first = fillers[long].cumsum(0) - fillers[long]
        number = torch.arange(int(fillers.sum())) - first.repeat_interleave(fillers[long]) + 1
        held[before[long].repeat_interleave(fillers[long]) + (number << self.bits)] = True
        return held.view(keep.shape)

    def position_bits(self, rows: int, cols: int, held: int) -> int:
        return held * self.bits

    def write(self, held: Tensor) -> dict[str, Tensor]:
        places = torch.nn.functional.pad(held.flatten().nonzero()[:, 0], (1, 0), value=-1)
        return {"gaps": (places.diff() - 1).to(torch.uint8)}

    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        held = torch.zeros(rows * cols, dtype=torch.bool)
        for places in self.places(parts["gaps"].split(CHUNK), rows, cols):
            held[places] = True
        return held.view(rows, cols)

    def places(self, symbols: Iterable[Tensor], rows: int, cols: int) -> Iterator[Tensor]:
        last, size = -1, rows * cols
        for gaps in symbols:
            places = (gaps.to(torch.int64) + 1).cumsum(0) + last
            last = int(places[-1]) if len(places) else last
            if last >= size:
                raise ValueError(f"its gaps lead beyond the last of {size} weights")
            yield places
        if size - last > 1 << self.bits:
            raise ValueError(f"its gaps end at weight {last + 1} of {size}")


def run_counts(keep: Tensor) -> tuple[Tensor, int]:
    """How often so many zeros lie before a kept weight ``[longest + 1]``, and how many lie behind the last."""
    places = torch.nn.functional.pad(keep.flatten().nonzero()[:, 0], (1, 0), value=-1)
    return torch.bincount(places.diff() - 1, minlength=1), keep.numel() - 1 - int(places[-1])


def gap_counts(runs: Tensor, behind: int, bits: int) -> Tensor:
    """How often each gap of so many bits occurs ``[2^bits]``, fillers' among them.

    >>> gap_counts(torch.tensor([0, 1, 1]), 0, 1).tolist()
    [1, 2]
    """
    lengths = torch.arange(len(runs))
    counts = torch.zeros(1 << bits, dtype=torch.int64).scatter_add_(0, lengths & (1 << bits) - 1, runs)
    counts[-1] += int((runs * (lengths >> bits)).sum()) + (behind >> bits)
    return counts
