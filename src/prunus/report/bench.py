"""The table of a benchmark."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def bench_table(found: Any) -> RenderableType:
    """Tokens a second by way, with their spread and what they come to beside fp32, and memory; which layers run packed, and
    why."""
    tokens = f"{found.prompt_tokens} + {found.new_tokens} tokens"
    title = f"{found.model}: {tokens}, batch {found.batch}, {found.threads} threads"
    table = Table(title=Text(title))
    table.add_column("way")
    table.columns[0].no_wrap = True
    for name in ("prefill", "decode, tokens/s", "× fp32", "MB a step", "limit", "peak GB"):
        table.add_column(name, justify="right", no_wrap=name in ("prefill", "decode, tokens/s", "limit"))
    base = next((way.decode_tokens_per_second.median for way in found.ways if way.name == "float32"), None)
    for way in found.ways:
        speed = way.decode_tokens_per_second
        table.add_row(
            way.name, _short(way.prefill_tokens_per_second.median),
            f"{_short(speed.median)} ({_short(speed.least)}–{_short(speed.most)})",
            f"{speed.median / base:.2f}" if base else "",
            f"{way.weight_bytes / 1e6:.0f}", f"{way.of_floor:.0%}" if found.bandwidth else "",
            f"{way.peak_bytes / 1e9:.2f}" if way.peak_bytes else "",
        )  # fmt: skip
    done = "skip columns" if found.ways[0].name == "skipping" else "run packed"
    lines = [f"{found.packed_layers} of {found.linear_layers} linear layers {done} on {found.backend}."]
    for choice in found.choices:
        other = "skipping" if choice.layout.startswith("by column") else "packed"
        kept = other if choice.keeps_packed else "dense"
        lines.append(
            f"  {choice.layers} layers {choice.rows}×{choice.cols}, {choice.layout}: "
            f"{1e6 * choice.packed_seconds:.0f} µs {other}, {1e6 * choice.dense_seconds:.0f} µs dense: {kept}"
        )
    if found.bandwidth:
        lines.append(
            f"The memory gave {found.bandwidth / 1e9:.1f} GB/s to all threads, measured between the ways; limit: the share "
            "of a step that reading the weights alone takes. Peak: of a process that runs nothing else."
        )
    lines += found.left_out
    return Group(table, Text("\n".join(lines)))


def _short(speed: float) -> str:
    """Tokens a second, to a digit that means something.

    >>> _short(35.1234), _short(2807.88)
    ('35.1', '2808')
    """
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
