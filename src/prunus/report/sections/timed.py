"""A benchmark: the ways to run a model, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Paragraph, Table
from ..words import Words
from .compared import known_bytes, timing


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was timed."""
    return words("bench", model=record["model"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    machine, ways = record["environment"], record["ways"]
    yield Paragraph(
        words(
            "bench_lead", prompt=record["prompt_tokens"], tokens=record["new_tokens"], batch=record["batch"],
            repeats=record["repeats"], processor=machine["processor"], threads=record["threads"],
        )
    )  # fmt: skip
    base = next((way["decode_tokens_per_second"]["median"] for way in ways if way["name"] == "float32"), None)
    rows = [
        [
            way["name"], timing(way["prefill_tokens_per_second"], words, "{:,.0f}"),
            timing(way["decode_tokens_per_second"], words),
            f"{way['decode_tokens_per_second']['median'] / base:.2f}" if base else words("not_known"),
            known_bytes(way["weight_bytes"], words), known_bytes(way["peak_bytes"], words),
        ]
        for way in ways
    ]  # fmt: skip
    heads = (words("way"), words("prefill", tokens=record["prompt_tokens"]), words("speed", tokens=record["new_tokens"]),
             words("over_fp32"), words("bytes_a_token"), words("memory"))  # fmt: skip
    yield Table(list(heads), rows)
    yield Paragraph(words("bench_layers", packed=record["packed_layers"], layers=record["linear_layers"]))
