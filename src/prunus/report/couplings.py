"""Couplings as a terminal table."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def couplings_table(found: Any, whole: bool) -> RenderableType:
    """The axes that a model can be cut along, what shrinks together (in one block, or the ``whole`` model), what stays."""
    told = found.to_json()
    table = Table(title=escape(f"along what {found.model} can be cut"), title_justify="left")
    for name in ("axis", "now", "steps"):
        table.add_column(name, justify="left" if name == "axis" else "right", no_wrap=True)
    for name in ("with", "parameters", "operations"):
        table.add_column(name, justify="right", no_wrap=True)
    lines: list[RenderableType] = [table]
    for name, axis in told["axes"].items():
        groups = f" ({axis['groups']} groups)" if axis["groups"] > 1 else ""
        steps = f"of {axis['step']}" if "sizes" not in axis else f"to {', '.join(map(str, axis['sizes'][:6])) or 'nothing'}"
        table.add_row(escape(name), str(axis["size"]), steps + groups, *_saved(axis["half"]))
        lines.append(Text(f"{name}: the config's {', '.join(axis['config'])}"))
        couplings = axis["couplings"] if whole else axis["couplings"][:1]
        for coupling in couplings:
            lines.append(Text(f"{name}: {_members(coupling, whole)}"))
        if len(couplings) < len(axis["couplings"]):
            lines.append(Text(f"  and so in {len(axis['couplings']) - 1} more", style="dim"))
    table.add_row("layers", str(told["layers"]["size"]), "of 1", *_saved(told["layers"]["half"]))
    return Group(*lines, *left_lines(told["left"], whole))


def _saved(half: dict[str, Any]) -> tuple[str, str, str]:
    """About half of an axis: how much that is, and what it saves."""
    return str(half["size"]), f"−{half['saves']['parameters']:.1%}", f"−{half['saves']['operations']:.1%}"


def module_table(found: Any, whole: bool) -> RenderableType:
    """What shrinks together in a module of any kind (those of the same layers of other blocks in short), what stays."""
    told = found.to_json()
    lines: list[RenderableType] = [Text(f"what shrinks together in {found.model}", style="italic")]
    alike: dict[str, list[str]] = defaultdict(list)
    for coupling in told["couplings"]:
        text = _members(coupling, whole)
        alike[text if whole else re.sub(r"\d+\.", "*.", text)].append(text)
    for texts in alike.values():
        lines.append(Text(texts[0]))
        if len(texts) > 1:
            lines.append(Text(f"  and so in {len(texts) - 1} more", style="dim"))
    if not told["couplings"]:
        lines.append(Text("nothing can be cut"))
    lines += left_lines(told["left"], whole)
    lines.append(Text("such models are cut in memory: prunus.shrink_module(model, example, share)", style="dim"))
    return Group(*lines)


def left_lines(left: dict[str, str], whole: bool) -> list[RenderableType]:
    """What has to stay, by reason."""
    lines: list[RenderableType] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for place, reason in left.items():
        reasons[re.sub(r"\.\d+\.", ".*.", reason)].append(place)
    for reason, places in reasons.items():
        shown = places if whole else places[:2]
        more = f" and {len(places) - len(shown)} more" if len(places) > len(shown) else ""
        lines.append(Text(f"stays ({reason}): {', '.join(shown)}{more}", style="dim"))
    return lines


def _members(coupling: dict[str, Any], whole: bool) -> str:
    members = [place + (f" ({each} each)" if each > 1 else "") for place, each in coupling["members"].items()]
    if not whole and len(members) > 8:
        members = [*members[:8], f"and {len(members) - 8} more"]
    return f"{coupling['units']} units: " + ", ".join(members)
