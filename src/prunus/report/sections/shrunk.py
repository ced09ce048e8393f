"""A structured run: what there was, what there is, and where the cut model is equal to the masked one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Folded, Paragraph, Picture, Table
from ..pictures import map_svg
from ..words import Words
from .compared import known_bytes


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was cut."""
    return words("shrink", model=record["model"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    plan = record["plan"]
    before, after = plan["parameters"]
    yield Paragraph(
        words(
            "shrink_lead", share=f"{after / before:.1%}", seconds=f"{record['seconds']:.0f}",
            memory=f"{record['peak_memory_bytes'] / 2**30:.2f} GiB",
        )
    )  # fmt: skip
    rows = [[name, f"{one:,}", f"{other:,}"] for name, (one, other) in plan["sizes"].items()]
    rows += [
        [words("blocks"), str(plan["count"]), str(len(plan["blocks"]))],
        [words("parameters"), f"{before:,}", f"{after:,}"],
        [words("size"), *(known_bytes(size, words) for size in record["disk_bytes"])],
    ]
    judged = record["evaluation"]
    if judged:
        rows.append([words("quality"), f"{judged['dense']:.3f}", f"{judged['pruned']:.3f}"])
    yield Table(["", words("dense"), words("after")], rows)
    if record["proof"]["masked"] is not None:
        yield Paragraph(words("masked", within=f"{record['proof']['masked']:.1g}"))
    errors = [(site["block"], site["layer"], site["rel_error"]) for site in record["sites"] if site["block"] is not None]
    if errors:
        yield Picture(map_svg(errors, words("block"), words("layer_map_error")), words("layer_map_shows_error"))
    left = plan["left"]
    if left:
        rows = [[name, reason] for name, reason in left.items()]
        yield Folded(words("left"), [Table([words("what"), words("reason")], rows, words=True)])
