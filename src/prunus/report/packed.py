"""The table of a packed checkpoint."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def packed_table(found: Any) -> RenderableType:
    """Layers by what they are in their block and how they are stored; files before, after and by arithmetic."""
    kinds: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for layer in found.layers:
        role = re.sub(r"^.*?\.\d+\.", "", layer.name).removesuffix(".weight")
        how = layer.values if layer.coder == "fixed" else f"{layer.values} {layer.coder}"
        kinds[role, "×".join(map(str, layer.shape)), layer.storage, how].append(layer)
    table = Table(title=Text(f"{found.model} packed"))
    table.add_column("layers", no_wrap=True)
    table.add_column("stored as")
    for name in ("count", "zeros", "B/weight", "error"):
        table.add_column(name, justify="right")
    for (role, shape, storage, values), layers in kinds.items():
        weights = sum(math.prod(layer.shape) for layer in layers)
        nbytes = sum(layer.nbytes for layer in layers)
        zeros = sum(layer.sparsity * math.prod(layer.shape) for layer in layers) / weights
        error = max(layer.error for layer in layers)
        table.add_row(
            Text(f"{role} {shape}"), f"{_short(storage)} {values}", str(len(layers)), f"{zeros:.2%}",
            f"{nbytes / weights:.4f}", f"{error:.2g}",
        )  # fmt: skip
    before, after, planned = (size / 1e6 for size in (found.plain_bytes, found.packed_bytes, found.planned_bytes))
    line = (
        f"{before:.1f} MB to {after:.1f} MB ({after / before:.1%}); positions, values, scales and all that was not "
        f"packed are {planned:.1f} MB, the header makes {after / planned - 1:+.2%} of it.\n"
        "Every layer was read back and unpacked. "
        f"Written to {found.output}; prunus.load runs it, prunus generate tries it, prunus bench times it."
    )
    return Group(table, Text(line))


def _short(storage: str) -> str:
    """A storage format as people say it.

    >>> _short("nm:n=2,m=4"), _short("gaps:bits=3"), _short("bitmask")
    ('2:4', '3-bit gaps', 'bitmask')
    """
    return re.sub(r"^gaps:bits=(\d+)$", r"\1-bit gaps", re.sub(r"^nm:n=(\d+),m=(\d+)$", r"\1:\2", storage))
