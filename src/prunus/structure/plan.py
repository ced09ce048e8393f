"""The plan of a structured run: complete before the first output byte is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import registry
from ..core.method import Method
from ..core.roles import ExpertImportance, Importance


@dataclass(frozen=True)
class ShrinkPlan:
    """What stays: ``sizes`` of the axes, the ``blocks`` and, where they were chosen beforehand, ``units`` by axis.

    ``method`` is how what reads the units is repaired; ``config`` are the numbers that the new config says. ``left`` maps
    what cannot be cut to the reason.
    """

    model: str
    fingerprint: str
    importance: Importance
    experts: ExpertImportance
    method: Method
    sizes: Mapping[str, tuple[int, int]]
    """Of every axis that is cut, its size before and after."""
    blocks: tuple[int, ...]
    count: int
    """Blocks that there were."""
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    parameters: tuple[int, int]
    """Before and after."""
    left: Mapping[str, str]
    units: Mapping[str, Tensor] = field(default_factory=dict)
    target: Mapping[str, Any] | None = None
    """The target that the sizes were searched for, and how."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; all that decides the output's bytes is in here."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "importance": registry.importance.describe(self.importance),
            "experts": registry.experts.describe(self.experts),
            "method": self.method.to_json(),
            "sizes": {name: list(pair) for name, pair in self.sizes.items()},
            "blocks": list(self.blocks),
            "count": self.count,
            "config": dict(self.config),
            "settings": dict(self.settings),
            "parameters": list(self.parameters),
            "units": {name: units.tolist() for name, units in self.units.items()},
            "left": dict(self.left),
            "target": dict(self.target) if self.target is not None else None,
        }

    def digest(self) -> str:
        """SHA-256 over what decides the output's bytes; without where the model lies and what a search measured."""
        decisive = {key: value for key, value in self.to_json().items() if key not in ("model", "left", "target")}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
