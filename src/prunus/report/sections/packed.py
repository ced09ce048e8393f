"""A packed checkpoint: bytes before and after, and how layers are stored."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Paragraph, Table
from ..packed import role, short
from ..words import Words
from .compared import known_bytes


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was packed."""
    return words("pack", model=record["model"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    before, after = record["plain_bytes"], record["packed_bytes"]
    yield Paragraph(
        words(
            "pack_lead", before=known_bytes(before, words), after=known_bytes(after, words), ratio=f"{before / after:.2f}"
        )
    )
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for layer in record["layers"]:
        how = f"{short(layer['storage'])}, {layer['values']}, {layer['coder']}"
        kinds[role(layer["name"]), "×".join(map(str, layer["shape"])), how].append(layer)
    rows = []
    for (layer, shape, how), ones in kinds.items():
        weights = sum(math.prod(one["shape"]) for one in ones)
        zeros = sum(one["sparsity"] * math.prod(one["shape"]) for one in ones) / weights
        bits = 8 * sum(one["nbytes"] for one in ones) / weights
        worst = max(one["error"] for one in ones)
        rows.append([layer, str(len(ones)), shape, how, f"{zeros:.2%}", f"{bits:.2f}", f"{worst:.2g}"])
    yield Table([words(key) for key in ("layers", "count", "shape", "stored", "sparsity", "bits", "worst")], rows)
