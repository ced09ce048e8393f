"""Meeting a target exactly: shares that depend on one number, and N:M mixed between layers. Used by allocators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..core.site import Site

_HALVINGS = 60


def mean_sparsity(shares: Mapping[str, float], sites: Sequence[Site]) -> float:
    """Parameter-weighted mean of ``shares`` by Site name."""
    return sum(shares[site.name] * site.numel for site in sites) / sum(site.numel for site in sites)


def met(target: float, sites: Sequence[Site], shares_at: Callable[[Site, float], float], low: float, high: float) -> dict[
    str, float
]:  # fmt: skip
    """Shares ``shares_at(site, t)``, clipped to [0, 1], with t in [low, high] such that their mean is the target.

    ``shares_at`` must not fall with t. The mean is found by bisection.

    >>> import torch
    >>> sites = [Site(name, name, (1, 1, cols), torch.float32) for name, cols in (("a", 10), ("b", 30))]
    >>> shares = met(0.5, sites, lambda site, t: t + (0.2 if site.name == "a" else 0.0), -1.0, 1.0)
    >>> {name: round(share, 6) for name, share in shares.items()}
    {'a': 0.65, 'b': 0.45}
    """

    def at(level: float) -> dict[str, float]:
        return {site.name: min(1.0, max(0.0, shares_at(site, level))) for site in sites}

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_sparsity(at(middle), sites) < target else (low, middle)
    return at(high)


def mixed_kept(shares: Mapping[str, float], sites: Sequence[Site], target: float, m: int) -> dict[str, int]:
    """How many of every M weights each Site keeps, 1 to M, near its share and to the same total.

    No share can be above 1 − 1/M: where that takes zeros away, the other shares rise alike to make up for them. Shares are
    rounded down first, in weights kept; those rounded furthest are then given one more each while the total allows it. What
    is kept in all is at most the target's, and short of it by less than one more step of any Site.

    >>> import torch
    >>> sites = [Site(name, name, (1, 4, 8), torch.float32) for name in "abc"]
    >>> mixed_kept({"a": 0.4, "b": 0.55, "c": 0.55}, sites, 0.5, 4)
    {'a': 2, 'b': 2, 'c': 2}
    """
    most = 1 - 1 / m
    possible = {site.name: min(most, shares[site.name]) for site in sites}
    if mean_sparsity(possible, sites) < target - 1e-9:
        possible = met(target, sites, lambda site, more: min(most, shares[site.name] + more), 0.0, 1.0)
    wanted = {name: m * (1 - share) for name, share in possible.items()}
    kept = {name: int(value + 1e-9) for name, value in wanted.items()}
    left = (1 - target) * sum(site.numel for site in sites) + 1e-6 - sum(kept[s.name] * s.numel / m for s in sites)
    furthest = sorted(sites, key=lambda site: kept[site.name] - wanted[site.name])
    while True:
        fitting = [site for site in furthest if site.numel / m <= left and kept[site.name] < m]
        if not fitting:
            return kept
        for site in fitting:
            if site.numel / m <= left:
                kept[site.name] += 1
                left -= site.numel / m


def by_block(sites: Sequence[Site]) -> dict[int | None, list[Site]]:
    """Sites by the block that they are in."""
    found: dict[int | None, list[Site]] = {}
    for site in sites:
        found.setdefault(site.block, []).append(site)
    return found


def around(target: float, step: float, spread: int) -> tuple[float, ...]:
    """The target and up to ``spread`` levels on either side of it, ``step`` apart, within (0, 1).

    >>> around(0.9, 0.05, 2)
    (0.8, 0.85, 0.9, 0.95)
    """
    levels = (round(target + step * k, 6) for k in range(-spread, spread + 1))
    return tuple(level for level in levels if 0 < level < 1 or level == target)
