"""Whether two runs of a block gave the same. Used where what a block computes is found by trying."""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCE = 1e-3


def near(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether two tensors are the same but for rounding in their dtype, of values as large as ``scale``."""
    tolerance = max(_TOLERANCE, 4 * torch.finfo(one.dtype).eps)
    return bool((one - other).float().norm() <= tolerance * scale.float().norm())
