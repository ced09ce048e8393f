"""Exact selection of the lowest scores, ties to the lower index. No pattern of its own: all of them use it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.sparsity import zeros


def keep_highest(scores: Tensor, sparsity: float) -> Tensor:
    """Keep-mask over the last axis: exactly ⌊n·sparsity⌋ of its n entries are dropped in every slice.

    The lowest go, and of equal ones the lower index first, which is what a stable ascending sort gives. Linear in n:
    one threshold a slice, then ties, where there are any, are counted off.

    >>> keep_highest(torch.tensor([[4.0, 1.0, 1.0, 1.0]]), 0.5)
    tensor([[ True, False, False,  True]])
    """
    return keep_all_but(scores, zeros(scores.shape[-1], sparsity))


def keep_all_but(scores: Tensor, drop: int) -> Tensor:
    """The same for a number of entries: ``drop`` of every slice."""
    count = scores.shape[-1]
    if drop == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if drop == count:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _smallest(scores, drop)
    keep = scores > threshold
    missing = count - drop - _counted(keep)
    if not missing.any():
        return keep
    tied = scores == threshold
    to_spare = tied.sum(-1, keepdim=True) - missing
    return keep | (tied & (tied.cumsum(-1) > to_spare))


def _counted(keep: Tensor) -> Tensor:
    """How many of every slice are true ``[.. 1]``; of a single one much faster than along an axis."""
    if keep.numel() == keep.shape[-1]:
        return torch.count_nonzero(keep).view(keep.shape[:-1]).unsqueeze(-1)
    return torch.count_nonzero(keep, dim=-1).unsqueeze(-1)


def _smallest(scores: Tensor, k: int) -> Tensor:
    """The ``k``-th smallest of the last axis ``[.. 1]``; on a CPU by numpy, whose selection is vectorised."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return scores.kthvalue(k, dim=-1, keepdim=True).values
    parted = np.partition(scores.numpy(), k - 1, axis=-1)
    return torch.from_numpy(parted[..., k - 1 : k])
