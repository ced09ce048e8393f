"""A layer's least-squares problem with every input scaled to unit energy. Used by iterative solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.matmul import linear
from ..core.stats import Stats
from .factor import checked_gram
from .stacked import Stacked


@dataclass(frozen=True)
class Normal:
    """``gram [cols cols]`` = D⁻¹HD⁻¹ with D = √diag(H) = ``scale [cols]``; a weight W becomes WD.

    H = XᵀX + damp·mean(diag XᵀX)·I. An input that was always zero has only its damping (without: 1) and meets no other.
    """

    gram: Tensor
    scale: Tensor

    @classmethod
    def each(cls, stats: Stats, damp: float, name: str) -> list[Normal]:
        """One problem a batch entry.

        Raises:
            NumericalError: if a Gram holds NaN or Inf.
        """
        return [cls._of(gram.clone(), damp) for gram in checked_gram(stats, name)]

    @classmethod
    def _of(cls, gram: Tensor, damp: float) -> Normal:
        diagonal = gram.diagonal()
        diagonal += damp * diagonal.mean()
        diagonal += diagonal == 0
        scale = diagonal.sqrt()
        gram.div_(scale).div_(scale.unsqueeze(1))
        return cls(gram, scale)


@dataclass(frozen=True)
class Scaled:
    """A stack of Problems with every input scaled to unit energy: a :class:`Normal` a batch entry, their ``scale
    [batch 1 cols]`` and the ``dense`` weights ``[batch rows cols]`` times it.
    """

    layers: list[Normal]
    scale: Tensor
    dense: Tensor

    @classmethod
    def of(cls, stack: Stacked, damp: float) -> Scaled:
        """The stack's Problems share the Stats that are scaled by."""
        first = stack.problems[0]
        layers = Normal.each(first.stats, damp, first.site.name)
        scale = torch.stack([layer.scale for layer in layers]).unsqueeze(1)
        return cls(layers, scale, stack.weight * scale)


def times(weight: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Every entry of ``weight [batch rows cols]`` times its own symmetric matrix."""
    return torch.stack([linear(one, matrix) for one, matrix in zip(weight, matrices, strict=True)])
