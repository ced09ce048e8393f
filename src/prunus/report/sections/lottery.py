"""A search for lottery tickets: levels, tickets and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Picture, Table
from ..lottery_pictures import accuracy_svg, speed_svg
from ..words import Words
from .trained import spread


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was searched."""
    return words("lottery", model=record["model"], data=record["data"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    head = [words("level"), words("kind"), words(f"score_{record['metric']}"), words("steps")]
    rows = [
        [
            f"{1 - row['sparsity']:.1%}", row["kind"], spread(row["score"], row["score_spread"], "{:.2f}"),
            spread(row["early_step"], row["early_step_spread"], "{:,.0f}"),
        ]
        for row in record["rows"]
    ]  # fmt: skip
    yield Table(head, rows)
    yield Picture(accuracy_svg(record), words("lottery_accuracy"))
    yield Picture(speed_svg(record), words("lottery_speed"))
