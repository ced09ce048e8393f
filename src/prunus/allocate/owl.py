"""OWL: blocks with more outliers are pruned less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from .levels import by_block, met


@final
@allocator("owl", paper="arXiv:2310.05175", cost="a pass over few inputs and two over all scores")
@dataclass(frozen=True)
class Owl(Allocator):
    """A block's sparsity falls with its share of outliers: weights whose Wanda score exceeds M times the block's mean.

    The shares are stretched to a width of 2λ over the model, s_b = s − (r_b − mean r), and shifted so that the
    parameter-weighted mean is the target. What is outside the blocks gets the target.
    """

    needs_profile: ClassVar[bool] = True
    scored_by: ClassVar[str | None] = "wanda"

    outlier: float = 5.0
    """M: how many times the mean score makes an outlier."""

    width: float = 0.08
    """λ: half the distance between the densest and the sparsest block."""

    tokens: int = 4096
    """Tokens of calibration text that the scores are made from: norms of inputs need no more."""

    def __post_init__(self) -> None:
        if self.outlier <= 0 or not 0 <= self.width <= 0.5:
            raise ValueError(f"outlier {self.outlier} must be positive and width {self.width} in [0, 0.5]")
        if self.tokens < 1:
            raise ValueError(f"tokens {self.tokens} must be at least 1")

    @property
    def survey_tokens(self) -> int:
        return self.tokens

    def compares(self, site: Site) -> bool:
        return site.block is not None

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        inside = [site for site in sites if self.compares(site)]
        outside = {site.name: target for site in sites if not self.compares(site)}
        if not inside:
            return outside
        if profile is None:
            raise ValueError("the owl allocator needs a profile of all scores")
        ratios = {block: self._outliers(group, profile) for block, group in by_block(inside).items()}
        low, high = min(ratios.values()), max(ratios.values())
        stretch = 2 * self.width / (high - low) if high > low else 0.0
        return outside | met(target, inside, lambda site, top: top - stretch * (ratios[site.block] - low), 0.0, 2.0)

    def _outliers(self, sites: Sequence[Site], profile: Profile) -> float:
        """Share of outliers among the weights of a block."""
        count = sum(site.numel for site in sites)
        mean = sum(float(profile.scores(site).double().sum()) for site in sites) / count
        return sum(int((profile.scores(site) > self.outlier * mean).sum()) for site in sites) / count
