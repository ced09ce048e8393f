"""Shared weights: few values for all weights of a matrix, by k-means in one dimension (arXiv:1510.00149, section 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.coder import CHUNK

_STEPS = 1000
"""Most steps of k-means; a few dozen are usual."""


def shared_values(weights: Tensor, most: int) -> Tensor:
    """At most ``most`` values, rising, in the weights' dtype, for ``weights [n]`` that are not zero.

    The weights' own where they have no more than that; else the centroids of k-means, begun in equal steps from the lowest
    weight to the highest and rounded to the dtype. A centroid that no weight is nearest to is left out.
    """
    ordered = weights.sort().values
    distinct: Tensor = ordered[torch.nn.functional.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)[: len(ordered)]]
    if len(distinct) <= most:
        return distinct
    centroids: Tensor = torch.from_numpy(_lloyd(ordered.double().numpy(), most)).to(weights.dtype).unique()
    return centroids[nearest(weights, centroids).long().unique()]


def nearest(weights: Tensor, values: Tensor) -> Tensor:
    """The number of the value nearest to each of ``weights [n]``, uint8; ``values`` rise, at most 256 of them."""
    between = (values[1:].double() + values[:-1].double()) / 2
    codes = [torch.bucketize(part.double(), between, right=True).to(torch.uint8) for part in weights.split(CHUNK)]
    return torch.cat(codes)


def _lloyd(ordered: np.ndarray, count: int) -> np.ndarray:
    """Centroids ``[count]`` of rising numbers ``ordered [n]``, from equal steps until nothing changes its centroid.

    What belongs to a centroid is a stretch of ``ordered``, so that its mean is a difference of running sums.
    """
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids, before = np.linspace(ordered[0], ordered[-1], count), None
    for _ in range(_STEPS):
        cuts = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        if before is not None and (cuts == before).all():
            break
        edges = np.concatenate([[0], cuts, [len(ordered)]])
        members = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(members, 1)
        centroids, before = np.where(members > 0, means, centroids), cuts
    return centroids
