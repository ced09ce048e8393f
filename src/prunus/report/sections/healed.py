"""A run that trained on: losses over steps, and what the model was and is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Paragraph, Picture, Table
from ..pictures import lines_svg
from ..words import Words


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was trained on."""
    return words("heal", model=record["model"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    held, judged = record["held_out"], record["evaluation"]
    yield Paragraph(
        words(
            "heal_lead", kind=record["kind"], step=held["step"], zeros=f"{record['zeros_held']:,}",
            seconds=f"{record['seconds']:.0f}", memory=f"{record['peak_memory_bytes'] / 2**30:.2f} GiB",
        )
    )  # fmt: skip
    rows = [[words("held_out"), f"{held['before']:.4f}", f"{held['after']:.4f}"]]
    if judged:
        rows.append([words("quality"), f"{judged['before']:.3f}", f"{judged['after']:.3f}"])
        if "teacher" in judged:
            rows.append([words("kl_teacher"), f"{judged['kl_before']:.4f}", f"{judged['kl_after']:.4f}"])
            rows.append([words("teachers"), f"{judged['teacher']:.3f}", ""])
    yield Table(["", words("before"), words("after")], rows)
    curves = [(words(key), record["losses"][key]) for key in ("training", "held_out") if record["losses"][key]]
    drawn = [(name, [point[0] for point in points], [point[1] for point in points]) for name, points in curves]
    yield Picture(lines_svg(drawn, words("step"), words("loss"), words("losses")), words("losses"))
