"""Erdős–Rényi-kernel: small layers keep more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from .levels import met


@final
@allocator("erk", paper="arXiv:1911.11134", cost="nothing")
@dataclass(frozen=True)
class ErdosRenyiKernel(Allocator):
    """A layer's density is ε · (outputs + inputs + Σ kernel) / (outputs · inputs · Π kernel), and at most 1 (RigL, sec. 3).

    ε is such that the budget is met: layers that would be denser than 1 stay whole, and the others share what is left.
    """

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        dense = {site.name: _density(site) for site in sites}
        most = 1 / min(dense.values())
        return met(target, sites, lambda site, less: 1 - (most - less) * dense[site.name], 0.0, most)


def _density(site: Site) -> float:
    """Σ dims / Π dims of the weight as it is stored.

    >>> import torch
    >>> from prunus.core.site import Layout
    >>> _density(Site("", "", (1, 8, 36), torch.float32, layout=Layout(kernel=(3, 3))))  # 8 + 4 + 3 + 3 over 288
    0.0625
    """
    kernel = site.layout.kernel
    inputs = site.cols // prod(kernel)
    outputs = site.rows * site.batch
    return (outputs + inputs + sum(kernel)) / (outputs * site.cols)
