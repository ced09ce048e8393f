"""What a convolution reads: patches of its input, each a row of the linear map that the convolution is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

POSITIONS = 128
"""Most places of one map that are looked at."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Unfolding:
    """The geometry of a convolution over 1 to 3 dimensions, transposed or not; ``padding`` is ``(before, after)`` for each.

    A transposed convolution is the ordinary one of its kernel turned round over the input with ``stride − 1`` zeros between
    its values.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Sequence[int] | int, padding: Sequence[int] | int | str,
           dilation: Sequence[int] | int, groups: int) -> Unfolding:  # fmt: skip
        """That of torch's convolution functions' arguments."""
        dims = len(kernel)
        spread = _each(dilation, dims)
        if isinstance(padding, str):
            spans = [d * (k - 1) if padding == "same" else 0 for d, k in zip(spread, kernel, strict=True)]
            pads = tuple((span // 2, span - span // 2) for span in spans)
        else:
            pads = tuple((pad, pad) for pad in _each(padding, dims))
        return cls(tuple(kernel), _each(stride, dims), pads, spread, groups)

    @classmethod
    def of_transposed(cls, kernel: Sequence[int], stride: Sequence[int] | int, padding: Sequence[int] | int,
                      beyond: Sequence[int] | int, dilation: Sequence[int] | int, groups: int) -> Unfolding:  # fmt: skip
        """That of a transposed convolution's arguments; ``beyond`` is its output padding."""
        dims = len(kernel)
        spread = _each(dilation, dims)
        pads = tuple(
            (d * (k - 1) - pad, d * (k - 1) - pad + more)
            for d, k, pad, more in zip(spread, kernel, _each(padding, dims), _each(beyond, dims), strict=True)
        )
        return cls(tuple(kernel), _each(stride, dims), pads, spread, groups, transposed=True)

    def rows(self, inputs: Tensor, most: int = POSITIONS) -> Tensor:
        """Patches of ``inputs [windows channels ..]`` at up to ``most`` places, ``[groups windows places cols]``.

        Columns stand as in a convolution's matrix (:class:`~prunus.core.site.Layout`). No patches are copied but those.
        """
        dims = len(self.kernel)
        maps = inputs if inputs.dim() == dims + 2 else inputs.unsqueeze(0)
        if self.transposed:
            maps = self._spread(maps)
        maps = functional.pad(maps, [pad for pads in reversed(self.padding) for pad in pads])
        for dim in range(dims):
            span = self.dilation[dim] * (self.kernel[dim] - 1) + 1
            stride = 1 if self.transposed else self.stride[dim]
            maps = maps.unfold(2 + dim, span, stride)[..., :: self.dilation[dim]]
        extents = maps.shape[2 : 2 + dims]
        chosen: tuple[Tensor, ...] = torch.unravel_index(_places(extents.numel(), most, maps.device), extents)
        patches = maps.movedim((0, 1), (-2, -1))[chosen]  # [places kernel windows channels]
        if self.transposed:
            patches = patches.flip(tuple(range(1, 1 + dims)))
        apart: Tensor = patches.flatten(1, dims).unflatten(-1, (self.groups, -1))  # [places kernel windows groups channels]
        return apart.permute(3, 2, 0, 1, 4).flatten(3)

    def _spread(self, maps: Tensor) -> Tensor:
        """Zeros between the values of ``maps [windows channels ..]``."""
        sizes = [(size - 1) * step + 1 for size, step in zip(maps.shape[2:], self.stride, strict=True)]
        wide = maps.new_zeros(*maps.shape[:2], *sizes)
        every = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
        wide[every] = maps
        return wide


def _each(value: Sequence[int] | int, dims: int) -> tuple[int, ...]:
    """One number a dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _places(total: int, most: int, device: torch.device) -> Tensor:
    """Up to ``most`` of ``total`` places: steps of the golden section, which no width of a map falls in with."""
    if total <= most:
        return torch.arange(total, device=device)
    step = next(step for step in range(round(total * _GOLDEN), total) if math.gcd(step, total) == 1)
    return torch.arange(most, device=device) * step % total
