"""An export: the format, bytes, and what the other side's reader made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Folded, Paragraph, Table
from ..words import Words
from .compared import known_bytes


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was exported, and what to."""
    return words("export", model=record["model"], format=record["to"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    before, after = record["plain_bytes"], record["packed_bytes"]
    yield Paragraph(words("export_lead", before=known_bytes(before, words), after=known_bytes(after, words)))
    rows = [
        [
            str(check["reader"]), str(check["tokens"]), f"{check['largest']:.3g} ({check['scale']:.3g})",
            f"{check['kl']:.2g}", f"{check['agreement']:.1%}",
        ]
        for check in record["checks"]
    ]  # fmt: skip
    yield Table([words(key) for key in ("reader", "tokens", "largest", "kl", "agreement")], rows)
    if record["notes"]:
        yield Folded(words("notes"), [Paragraph(str(note)) for note in record["notes"]])
