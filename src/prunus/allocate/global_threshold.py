"""One threshold over the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.errors import NumericalError
from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from ..core.sparsity import zeros

_BUCKETS = 1 << 16


@final
@allocator("global", paper="arXiv:1506.02626", cost="three passes over all scores")
@dataclass(frozen=True)
class GlobalThreshold(Allocator):
    """Layers are as sparse as one score threshold over all of them makes them ("global L1" with magnitude).

    Exact in number without holding all scores: a histogram over the upper 16 bits of the scores finds the bucket that
    the threshold lies in, a second pass collects that bucket alone, a third counts. Ties go to the earlier layer first.
    """

    needs_profile: ClassVar[bool] = True

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        if profile is None:
            raise ValueError("the global allocator needs a profile of all scores")
        wanted = zeros(sum(site.numel for site in sites), target)
        if wanted == 0:
            return {site.name: 0.0 for site in sites}
        histogram = torch.zeros(_BUCKETS, dtype=torch.int64)
        for site in sites:
            scores = profile.scores(site)
            _check(scores, site)
            histogram += torch.bincount(_buckets(scores), minlength=_BUCKETS)
        total = histogram.cumsum(0)
        bucket = int(torch.searchsorted(total, wanted))
        inside = torch.cat([_inside(profile.scores(site), bucket) for site in sites])
        rank = wanted - (int(total[bucket - 1]) if bucket else 0)
        threshold = inside.kthvalue(rank).values
        return _shares(sites, profile, threshold, wanted)


def _check(scores: Tensor, site: Site) -> None:
    lowest, highest = scores.aminmax()
    if not (lowest >= 0 and highest.isfinite()):
        raise NumericalError(
            f"{site.name}: scores must be finite and not negative for one threshold over the model. Choose another "
            "--criterion, or --allocation uniform."
        )


def _buckets(scores: Tensor) -> Tensor:
    return (scores.detach().flatten().float().cpu() + 0.0).view(torch.int32) >> 16


def _inside(scores: Tensor, bucket: int) -> Tensor:
    return scores.flatten().float().cpu()[_buckets(scores) == bucket]


def _shares(sites: Sequence[Site], profile: Profile, threshold: Tensor, wanted: int) -> dict[str, float]:
    below, tied = {}, {}
    for site in sites:
        scores = profile.scores(site).float().cpu()
        below[site.name] = int(torch.count_nonzero(scores < threshold))
        tied[site.name] = int(torch.count_nonzero(scores == threshold))
    left = wanted - sum(below.values())
    shares = {}
    for site in sites:
        extra = min(left, tied[site.name])
        left -= extra
        shares[site.name] = (below[site.name] + extra) / site.numel
    return shares
