"""Exact selection of the lowest scores, ties to the lower index. No pattern of its own: all of them use it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.sparsity import zeros


def keep_highest(scores: Tensor, sparsity: float) -> Tensor:
    """Keep-mask over the last axis: exactly ⌊n·sparsity⌋ of its n entries are dropped in every slice.

    The lowest go, and of equal ones the lower index first, which is what a stable ascending sort gives. Linear in n:
    one threshold a slice (``kthvalue``), then ties are counted off.

    >>> keep_highest(torch.tensor([[4.0, 1.0, 1.0, 1.0]]), 0.5)
    tensor([[ True, False, False,  True]])
    """
    count = scores.shape[-1]
    drop = zeros(count, sparsity)
    if drop == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if drop == count:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(drop, dim=-1, keepdim=True).values
    keep = scores > threshold
    tied = scores == threshold
    to_spare = (tied | keep).sum(-1, keepdim=True) - (count - drop)
    return keep | (tied & (tied.cumsum(-1) > to_spare))
