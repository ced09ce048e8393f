"""Exact quantiles of magnitudes, in two passes and the same memory however much is read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..core.errors import NumericalError
from ..core.finite import all_finite
from ..core.sparsity import zeros

_HALF = 1 << 16


class Histogram:
    """First pass: how many magnitudes have which upper 16 bits as fp32; floats that are not negative sort as their bits."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_HALF, dtype=torch.int64)

    def add(self, x: Tensor) -> None:
        """Count all entries of ``x``.

        Raises:
            NumericalError: if one of them is NaN or Inf.
        """
        self.counts += torch.bincount(_bits(x) >> 16, minlength=_HALF).cpu()

    @property
    def total(self) -> int:
        """Entries counted so far."""
        return int(self.counts.sum())


class Quantiles:
    """Second pass over what a Histogram has counted: where wanted shares of it end, to the last bit.

    >>> x, seen = torch.tensor([0.5, -3.0, 1.0, 2.0]), Histogram()
    >>> seen.add(x)
    >>> found = Quantiles(seen, [0.5, 0.75])
    >>> found.add(x)
    >>> found.thresholds()
    [1.0, 2.0]
    """

    def __init__(self, histogram: Histogram, levels: Iterable[float]) -> None:
        self.ranks = [zeros(histogram.total, level) for level in levels]
        below = histogram.counts.cumsum(0)
        self.buckets = torch.searchsorted(below, torch.tensor(self.ranks).clamp_min(1))
        self._before = (below - histogram.counts)[self.buckets]
        self._slots = torch.full((_HALF,), -1, dtype=torch.int64)
        wanted = self.buckets.unique()
        self._slots[wanted] = torch.arange(len(wanted))
        self._counts = torch.zeros(len(wanted), _HALF, dtype=torch.int64)

    def add(self, x: Tensor) -> None:
        """Count the lower 16 bits of those entries of ``x`` among which a wanted share ends."""
        bits = _bits(x)
        slots = self._slots.to(bits.device)[bits >> 16]
        inside = slots >= 0
        places = slots[inside] * _HALF + (bits[inside] & (_HALF - 1))
        self._counts += torch.bincount(places, minlength=self._counts.numel()).view_as(self._counts).cpu()

    def thresholds(self) -> list[float]:
        """For every level p the least magnitude t such that of n entries ⌊p·n⌋ are at most t; 0 where that is none."""
        found = []
        for rank, bucket, before in zip(self.ranks, self.buckets.tolist(), self._before.tolist(), strict=True):
            low = torch.searchsorted(self._counts[self._slots[bucket]].cumsum(0), rank - before)
            bits = torch.tensor([bucket << 16 | int(low)], dtype=torch.int32)
            found.append(float(bits.view(torch.float32)) if rank else 0.0)
        return found


def _bits(x: Tensor) -> Tensor:
    """The bits of magnitudes in fp32, as whole numbers ``[entries]``."""
    flat = x.detach().flatten().float()
    if not all_finite(flat):
        raise NumericalError("activations are NaN or Inf. Check the model and the text; with float16 try --dtype float32.")
    return flat.abs().view(torch.int32).to(torch.int64)
