"""A training recipe: the lab's table and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Paragraph, Picture, Table
from ..trained import inside_noise
from ..trained_pictures import accuracy_svg, training_svg
from ..words import Words


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was trained."""
    return words("train", model=record["model"], data=record["data"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    head = [
        words("run"), words(f"score_{record['metric']}"), words("change"), words("latency_ms"), words("speedup"),
        words("size"), words("nonzeros"), words("sparsity"), words("flops"),
    ]  # fmt: skip
    yield Table(head, [_row(row) for row in record["rows"]])
    inside = inside_noise(record["rows"][1:])
    if inside:
        yield Paragraph(words("inside_noise", tests=f"{record['samples']['test']:,}", runs=", ".join(inside)))
    yield Picture(accuracy_svg(record), words("accuracy_shows"))
    if any(result["history"] for result in record["results"]):
        yield Picture(training_svg(record), words("training_shows"))


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        row["run"],
        spread(row["score"], row["score_spread"], "{:.2f}"),
        spread(row["change"], row["change_spread"], "{:+.2f}"),
        "–" if row["latency_ms"] is None else f"{row['latency_ms']:.2f}",
        "–" if row["speedup"] is None else f"{row['speedup']:.2f}×",
        f"{row['file_bytes'] / 1e6:.2f} MB",
        f"{row['nonzeros']:,}",
        f"{row['sparsity']:.1%}",
        f"{row['training_flops']:.3g}",
    ]


def spread(value: float, around: float | None, form: str) -> str:
    """A mean with its standard deviation over seeds, where there are several.

    >>> spread(1.5, 0.25, "{:+.2f}"), spread(1.5, None, "{:.1f}")
    ('+1.50 ± 0.25', '1.5')
    """
    return form.format(value) + (f" ± {form.replace('+', '').format(around)}" if around is not None else "")
