"""A record of any other kind: its figures as they stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Paragraph, Table
from ..words import Words

_APART = ("format", "kind", "created", "recipe", "plan", "plan_digest", "environment", "model")
_LONGEST = 300


def title(record: Mapping[str, Any], words: Words) -> str:
    """What it is of."""
    return words(
        "other",
        kind=record.get("kind") or record.get("what", words("run")),
        model=record.get("model", words("unnamed")),
    )


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """Every figure and short text that is not deep inside."""
    yield Paragraph(words("other_lead"))
    yield Table([words("what"), words("value")], list(_figures(record, "")), words=True)


def _figures(value: Mapping[str, Any], path: str) -> Iterator[list[str]]:
    for key, inner in value.items():
        if not path and key in _APART:
            continue
        name = f"{path}.{key}" if path else str(key)
        if isinstance(inner, dict) and name.count(".") < 2:
            yield from _figures(inner, name)
        elif isinstance(inner, (int, float, str)):
            told = f"{inner:,}" if isinstance(inner, (int, float)) and not isinstance(inner, bool) else str(inner)
            yield [name, told[:_LONGEST]]
