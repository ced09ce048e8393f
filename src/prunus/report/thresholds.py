"""Tables of activation thresholds: what was found, and what they come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..core.thresholds import ActivationUse


def threshold_table(found: Any) -> RenderableType:
    """Levels and thresholds by kind of input, and what they do on held-out text."""
    table = Table(title=escape(f"{found.model}: {found.sparsity:.0%}, {found.allocation}"), title_justify="left")
    for name in ("input of", "count", "level", "threshold"):
        table.add_column(name, justify="left" if name == "input of" else "right")
    kinds: dict[str, list[Any]] = defaultdict(list)
    for one in found.inputs:
        kinds[_kind(one.layers)].append(one)
    for kind, ones in kinds.items():
        levels, cuts = [one.level for one in ones], [one.threshold for one in ones]
        table.add_row(escape(kind), str(len(ones)), _range(levels, "{:.1%}"), _range(cuts, "{:.4g}"))
    lines: list[RenderableType] = [table]
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in found.left_dense.items():
        reasons[reason].append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(Text(f"left dense ({reason}): {', '.join(names[:2])}{more}"))
    if found.held_out is not None:
        held = found.held_out
        lines.append(Text(f"{held.tokens} tokens of {held.text}, windows of {held.seqlen}: perplexity "
                          f"{held.dense_perplexity:.3f} dense, {held.perplexity:.3f} with thresholds; "
                          f"KL {held.kl:.4f}, agreement {held.agreement:.2%}"))  # fmt: skip
        lines.append(_summary(held.use))
    lines.append(Text(f"{found.seconds:.0f} s, written to {found.output}"))
    return Group(*lines)


def use_table(use: ActivationUse) -> RenderableType:
    """How much of each kind of input counted as zero, and the bytes that need not be read for it."""
    table = Table(title=escape(use.file), title_justify="left")
    for name in ("input of", "count", "level", "measured"):
        table.add_column(name, justify="left" if name == "input of" else "right")
    kinds: dict[str, list[Any]] = defaultdict(list)
    for one in use.inputs:
        kinds[_kind(one.layers)].append(one)
    for kind, ones in kinds.items():
        levels, measured = [one.level for one in ones], [one.sparsity for one in ones]
        table.add_row(escape(kind), str(len(ones)), _range(levels, "{:.1%}"), _range(measured, "{:.1%}"))
    return Group(table, _summary(use))


def _summary(use: ActivationUse) -> Text:
    return Text(
        f"{use.sparsity:.2%} of activations count as zero (weighted by bytes): {use.bytes_not_read / 1e6:,.1f} MB of "
        f"{use.weight_bytes / 1e6:,.1f} MB of weights not read a token"
    )


def _kind(layers: Iterable[str]) -> str:
    """What layers are called in every block: their paths behind the block's number.

    >>> _kind(["model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.k_proj"])
    'self_attn.q_proj, self_attn.k_proj'
    """
    inside = []
    for layer in layers:
        words = layer.split(".")
        number = next((k for k, word in enumerate(words) if word.isdigit()), -1)
        inside.append(".".join(words[number + 1 :]))
    return ", ".join(inside)


def _range(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} … {high}"
