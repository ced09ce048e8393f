"""Targets that a person has: how many parameters, operations, bytes or milliseconds a smaller model may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("params", "params_nonembedding", "flops", "memory", "latency")
_UNITS = {
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9},
    "flops": {"": 1.0, "m": 1e6, "g": 1e9, "t": 1e12},
    "memory": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "latency": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
}
_EXAMPLES = {"params": "100M", "flops": "200M a token", "memory": "1.5GB", "latency": "40ms"}


@dataclass(frozen=True)
class Target:
    """At most a ``share`` of what the dense model takes, or an ``amount`` (parameters, operations a token, bytes or s)."""

    kind: str
    text: str
    share: float | None = None
    amount: float | None = None

    @classmethod
    def parse(cls, kind: str, text: str) -> Target:
        """Read ``0.8x``, ``80%`` or an amount with its unit.

        >>> Target.parse("params", "0.8x").share, Target.parse("memory", "1.5GB").amount
        (0.8, 1500000000.0)

        Raises:
            ValueError: if it is neither.
        """
        units = _UNITS[kind.partition("_")[0]]
        found = re.fullmatch(r"(\d*\.?\d+)\s*([a-z%]*)", text.strip().lower())
        value, unit = (float(found[1]), found[2]) if found else (0.0, "?")
        if unit in ("x", "%") or (unit == "" and value < 1):
            share = value / (100 if unit == "%" else 1)
            if 0 < share < 1:
                return cls(kind, text, share=share)
        elif unit in units and value > 0:
            return cls(kind, text, amount=value * units[unit])
        example = _EXAMPLES[kind.partition("_")[0]]
        raise ValueError(f"'{text}' is neither a share of the model, below 1 (0.8x, 80%), nor an amount ({example})")

    @property
    def name(self) -> str:
        """A name for folders: ``params-0.8x``."""
        return f"{self.kind.replace('_', '-')}-{re.sub(r'[^0-9A-Za-z.%]+', '', self.text)}"

    def limit(self, whole: float) -> float:
        """The most that is allowed, where the dense model takes ``whole``."""
        return self.amount if self.amount is not None else (self.share or 0.0) * whole

    def told(self, value: float) -> str:
        """An amount of this kind in words."""
        if self.kind == "latency":
            return f"{value * 1e3:.1f} ms"
        if self.kind == "memory":
            return f"{value / 1e6:,.1f} MB"
        return f"{value:,.0f}" + (" operations a token" if self.kind == "flops" else " parameters")
