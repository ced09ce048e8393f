"""Is there any NaN or Inf in a tensor?"""

from __future__ import annotations

from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or Inf; one read of the tensor, nothing as large is made.

    >>> import torch
    >>> all_finite(torch.tensor([1.0, float("nan")])), all_finite(torch.tensor([]))
    (False, True)
    """
    if not tensor.numel():
        return True
    lowest, highest = tensor.aminmax()
    return bool(lowest.isfinite() & highest.isfinite())
