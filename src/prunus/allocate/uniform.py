"""The same sparsity everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site


@final
@allocator("uniform", paper="arXiv:2306.11695", cost="nothing")
@dataclass(frozen=True)
class Uniform(Allocator):
    """Every layer gets the target sparsity, as the one-shot papers do."""

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        return {site.name: target for site in sites}
