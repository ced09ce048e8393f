"""Sparsities set by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, final

from ..core.registry import allocator
from ..core.roles import Allocator, Profile
from ..core.site import Site
from ..core.sparsity import Target, parse_sparsity


@dataclass(frozen=True)
class Pin:
    """``glob = value``: a sparsity, an absolute score threshold, or ``dense`` for the Sites that match."""

    glob: str
    target: Target | None
    threshold: float | None = None

    @classmethod
    def parse(cls, text: str) -> Pin:
        """Read ``'*.down_proj=0.3'``, ``'*.q_proj=2:4'``, ``'*.up_proj=threshold:0.02'`` or ``'*.o_proj=dense'``.

        >>> Pin.parse("*.up_proj=threshold:0.02")
        Pin(glob='*.up_proj', target=None, threshold=0.02)

        Raises:
            ValueError: if it is none of these.
        """
        glob, equals, value = text.partition("=")
        if not equals or not glob or not value:
            raise ValueError(f"'{text}' is not GLOB=VALUE, as in '*.down_proj=0.3'")
        if value == "dense":
            return cls(glob, Target(0.0))
        match = re.fullmatch(r"threshold:(.+)", value)
        if match is None:
            return cls(glob, parse_sparsity(value))
        try:
            threshold = float(match[1])
        except ValueError:
            raise ValueError(f"'{text}': threshold '{match[1]}' is no number") from None
        if not threshold >= 0:
            raise ValueError(f"'{text}': a threshold is at least 0")
        return cls(glob, None, threshold)


@final
@allocator("manual", paper="arXiv:1506.02626", cost="nothing; a pass over the scores for thresholds")
@dataclass(frozen=True)
class Manual(Allocator):
    """Layers named by ``--set GLOB=VALUE`` get what is set, the last match wins; layers no glob names stay dense."""

    pins: tuple[Pin, ...] = ()
    """The values of --set; they have no spelling here."""

    needs_profile: ClassVar[bool] = True

    def pin(self, site: Site) -> Pin | None:
        """The pin that decides this Site."""
        return next((pin for pin in reversed(self.pins) if fnmatchcase(site.name, pin.glob)), None)

    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        return {site.name: self._sparsity(site, profile) for site in sites}

    def _sparsity(self, site: Site, profile: Profile | None) -> float:
        pin = self.pin(site)
        if pin is None:
            return 0.0
        if pin.target is not None:
            return pin.target.sparsity
        if profile is None or pin.threshold is None:
            raise ValueError("an absolute threshold needs a profile of the scores")
        return float((profile.scores(site) < pin.threshold).sum()) / site.numel
