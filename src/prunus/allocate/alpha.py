"""AlphaPruning: blocks whose spectra have heavier tails are pruned less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from .levels import by_block, met


@final
@allocator("alpha", paper="arXiv:2410.10912", cost="the singular values of every matrix; no data")
@dataclass(frozen=True)
class Alpha(Allocator):
    """A block's sparsity rises with the mean Hill exponent of its matrices' squared singular values (eq. 2 and 3).

    Exponents are mapped linearly to [1 − ε, 1 + ε] times one factor, which makes the parameter-weighted mean the target.
    Matrices without a tail (all zeros, say) are left out of the mean; a block of such alone is in the middle.
    """

    needs_profile: ClassVar[bool] = True
    scored_by: ClassVar[str | None] = "magnitude"

    width: float = 0.2
    """ε: how far the sparsest and the densest block are from the middle, relative to it."""

    def __post_init__(self) -> None:
        if not 0 <= self.width < 1:
            raise ValueError(f"width {self.width} must be in [0, 1)")

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        if profile is None:
            raise ValueError("the alpha allocator needs a profile of all weights")
        exponents = {block: _mean_exponent(group, profile) for block, group in by_block(sites).items()}
        known = [exponent for exponent in exponents.values() if exponent is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)

        def share(site: Site, factor: float) -> float:
            exponent = exponents[site.block]
            place = (exponent - low) / (high - low) if exponent is not None and high > low else 0.5
            return factor * (1 - self.width + 2 * self.width * place)

        return met(target, sites, share, 0.0, 1 / (1 - self.width))


def _mean_exponent(sites: Sequence[Site], profile: Profile) -> float | None:
    """The mean over a block's matrices that have a tail; None if none has."""
    found = torch.cat([hill_exponent(profile.weight(site)) for site in sites])
    found = found[found.isfinite()]
    return float(found.mean()) if len(found) else None


def hill_exponent(weight: Tensor) -> Tensor:
    """Hill's estimate ``[batch]`` of the exponent of the squared singular values of ``weight [batch rows cols]``.

    With them in rising order and k half their number: α = 1 + k / Σ_{i ≤ k} ln(λ_{n−i+1}/λ_{n−k}). Infinite without a tail:
    where the larger half is all the same, as in a matrix of zeros, or there is but one value.
    """
    short = weight.double() if weight.shape[-2] <= weight.shape[-1] else weight.double().mT
    spectrum = torch.linalg.eigvalsh(short @ short.mT).clamp_min(torch.finfo(torch.float64).tiny)
    half = spectrum.shape[-1] // 2
    tail = spectrum[..., -half:].log() - spectrum[..., -half - 1, None].log() if half else spectrum.log() * 0
    total = tail.sum(-1)
    return torch.where(total > 0, 1 + half / total, torch.inf)
