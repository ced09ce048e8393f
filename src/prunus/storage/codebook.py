"""Shared weights: few values for all weights of a matrix, by k-means in one dimension (arXiv:1510.00149, section 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.coder import CHUNK

_STEPS = 1000
"""Most steps of k-means; a few dozen are usual."""
_BINS = 4096
"""Bins of the histogram that stands for a density."""


def shared_values(weights: Tensor, most: int) -> Tensor:
    """At most ``most`` values, rising, in the weights' dtype, for ``weights [n]`` that are not zero.

    The weights' own where they have no more than that; else the centroids of k-means, rounded to the dtype. It is begun
    twice, in equal steps from the lowest weight to the highest, which leave room for the few large ones, and in steps that
    follow the weights' density: what ends with the smaller squared error is taken. A centroid that no weight is nearest to
    is left out.
    """
    ordered = weights.sort().values
    distinct: Tensor = ordered[torch.nn.functional.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)[: len(ordered)]]
    if len(distinct) <= most:
        return distinct
    wide = ordered.double().numpy()
    sums = np.concatenate([[0.0], np.cumsum(wide)])
    found = [_lloyd(wide, sums, begun) for begun in (np.linspace(wide[0], wide[-1], most), _by_density(wide, most))]
    best, _ = max(found, key=lambda one: one[1])
    centroids: Tensor = torch.from_numpy(best).to(weights.dtype).unique()
    return centroids[nearest(weights, centroids).long().unique()]


def nearest(weights: Tensor, values: Tensor) -> Tensor:
    """The number of the value nearest to each of ``weights [n]``, uint8; ``values`` rise, at most 256 of them."""
    between = (values[1:].double() + values[:-1].double()) / 2
    codes = [torch.bucketize(part.double(), between, right=True).to(torch.uint8) for part in weights.split(CHUNK)]
    return torch.cat(codes)


def _by_density(ordered: np.ndarray, count: int) -> np.ndarray:
    """``count`` rising numbers whose density is about the cube root of that of ``ordered [n]``.

    That is how the best values for a smooth density lie when they are many (Panter and Dite 1951).
    """
    found, edges = np.histogram(ordered, bins=_BINS)
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(found))])
    begun: np.ndarray = np.interp((np.arange(count) + 0.5) / count * share[-1], share, edges)
    return begun


def _lloyd(ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """Centroids ``[count]`` of rising numbers ``ordered [n]``, whose running sums are ``sums [n + 1]``, from those given
    until nothing changes its centroid, and by how much they make the sum of squares smaller: Σ members · centroid².

    What belongs to a centroid is a stretch of ``ordered``, so that its mean is a difference of running sums.
    """
    before = None
    for _ in range(_STEPS):
        cuts = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        if before is not None and (cuts == before).all():
            break
        edges = np.concatenate([[0], cuts, [len(ordered)]])
        members = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(members, 1)
        centroids, before = np.where(members > 0, means, centroids), cuts
    return centroids, float((members * means**2).sum())
