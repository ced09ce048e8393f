"""Inputs without their mean: least squares where a bias is free.

The best bias for weights Ŵ is b + (W − Ŵ)μ with μ the mean input, and the error that is left is that of Ŵ on X − μ. So a
solver that is given G − n·μμᵀ finds the best Ŵ. With weights that are kept as they are it is FLAP's compensation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.stats import Stats

_ROUNDING = 1e-5
"""Added to the diagonal, relative to it: what subtracting may have taken too much."""


def centred(stats: Stats) -> tuple[Stats, Tensor]:
    """The Stats of inputs without their mean, and the mean ``[batch cols]``; they have to hold ``sum``."""
    count = stats.tokens.clamp_min(1).to(stats.moments["sum"].device)
    mean = stats.moments["sum"] / count.unsqueeze(-1)
    found = {"sum": torch.zeros_like(mean)}
    if "norm_sq" in stats.moments:
        found["norm_sq"] = (stats.moments["norm_sq"] - count.unsqueeze(-1) * mean.square()).clamp_min(0)
    if "gram" in stats.moments:
        gram = stats.gram() if stats.gram().dim() == 3 else stats.gram().unsqueeze(0)
        new = gram - count.view(-1, 1, 1) * mean.unsqueeze(2) * mean.unsqueeze(1)
        new.diagonal(dim1=1, dim2=2).add_(_ROUNDING * gram.diagonal(dim1=1, dim2=2))
        found["gram"] = new
    if "sample" in stats.moments:
        sample = stats.moments["sample"]
        found["sample"] = (sample - mean.unsqueeze(1)) * (sample != 0).any(-1, keepdim=True)
    return stats.with_moments(**found), mean
