"""Plan: every step of a run, complete before the first output byte is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .method import Method
from .roles import Pattern
from .site import Site


@dataclass(frozen=True)
class Step:
    """What happens to one Site."""

    site: Site
    sparsity: float
    pattern: Pattern

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.site.name,
            "block": self.site.block,
            "role": self.site.role,
            "shape": list(self.site.shape),
            "dtype": str(self.site.dtype).removeprefix("torch."),
            "sparsity": self.sparsity,
            "pattern": registry.pattern.describe(self.pattern),
        }


@dataclass(frozen=True)
class Estimate:
    """What the run will take on this machine: bytes resident at the peak, seconds, bytes on disk, bytes on a GPU."""

    memory_bytes: int
    seconds: float
    disk_bytes: int
    gpu_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """Every Site's sparsity and pattern, the method, the settings and what they were planned for.

    ``untouched`` maps each tensor that could have been a Site, but is left as it is, to the reason.
    """

    model: str
    fingerprint: str
    method_name: str
    method: Method
    steps: tuple[Step, ...]
    untouched: Mapping[str, str]
    settings: Mapping[str, Any]
    parameters: int
    estimate: Estimate | None = field(default=None, compare=False)

    @property
    def target(self) -> float:
        """Parameter-weighted sparsity of the pruned Sites."""
        total = sum(step.site.numel for step in self.steps)
        return sum(step.sparsity * step.site.numel for step in self.steps) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; all that decides the output's bytes is in here."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "method": {"name": self.method_name, **self.method.to_json()},
            "settings": dict(self.settings),
            "parameters": self.parameters,
            "steps": [step.to_json() for step in self.steps],
            "untouched": dict(self.untouched),
        }

    def digest(self) -> str:
        """SHA-256 over what decides the output's bytes; where the model lies is not part of it."""
        decisive = {key: value for key, value in self.to_json().items() if key != "model"}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
