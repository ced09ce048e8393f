"""Waves: a block whose Grams would not fit in memory together is observed in several passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.site import Site
from ..core.stats import Needs
from .moments import nbytes


@dataclass(frozen=True)
class Wave:
    """Sites observed in one pass; ``experts`` narrows stacked Sites to some of their experts.

    With ``everyone`` these experts see all tokens of their layer, whatever the router chose.
    """

    sites: tuple[Site, ...]
    experts: tuple[int, ...] | None = None
    everyone: bool = False


def waves(sites: Sequence[Site], needs: Needs, budget: int) -> list[Wave]:
    """Split Sites, in order, so that each wave's moments take at most ``budget`` bytes.

    Sites that will turn out to share an input are counted apart, so the bound is kept, not met. A stacked Site that is
    too large alone is split by experts; a single matrix too large alone gets a wave of its own.
    """
    found: list[Wave] = []
    pending: list[Site] = []
    used = 0
    for site in sites:
        size = nbytes(needs, site.batch, site.cols, site.rows)
        if pending and used + size > budget:
            found.append(Wave(tuple(pending)))
            pending, used = [], 0
        if size > budget and site.batch > 1:
            step = max(1, budget * site.batch // size)
            found += [Wave((site,), tuple(range(k, min(k + step, site.batch)))) for k in range(0, site.batch, step)]
            continue
        pending.append(site)
        used += size
    return [*found, Wave(tuple(pending))] if pending else found
