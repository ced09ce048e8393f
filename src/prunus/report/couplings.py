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
    for name in ("axis", "now", "in steps of"):
        table.add_column(name, justify="left" if name == "axis" else "right", no_wrap=True)
    for name in ("with", "parameters", "operations"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("the config's", overflow="fold")
    lines: list[RenderableType] = [table]
    for name, axis in told["axes"].items():
        groups = f" ({axis['groups']} groups)" if axis["groups"] > 1 else ""
        size, saved = axis["half"]["size"], axis["half"]["saves"]
        table.add_row(
            escape(name), str(axis["size"]), f"{axis['step']}{groups}", str(size), f"−{saved['parameters']:.1%}",
            f"−{saved['operations']:.1%}", escape(", ".join(axis["config"])),
        )  # fmt: skip
        couplings = axis["couplings"] if whole else axis["couplings"][:1]
        for coupling in couplings:
            lines.append(Text(f"{name}: {_members(coupling, whole)}"))
        if len(couplings) < len(axis["couplings"]):
            lines.append(Text(f"  and so in {len(axis['couplings']) - 1} more", style="dim"))
    reasons: dict[str, list[str]] = defaultdict(list)
    for place, reason in told["left"].items():
        reasons[re.sub(r"\.\d+\.", ".*.", reason)].append(place)
    for reason, places in reasons.items():
        shown = places if whole else places[:2]
        more = f" and {len(places) - len(shown)} more" if len(places) > len(shown) else ""
        lines.append(Text(f"stays ({reason}): {', '.join(shown)}{more}", style="dim"))
    return Group(*lines)


def _members(coupling: dict[str, Any], whole: bool) -> str:
    members = [f"{place} ({each} each)" for place, each in coupling["members"].items()]
    if not whole and len(members) > 8:
        members = [*members[:8], f"and {len(members) - 8} more"]
    return f"{coupling['units']} units: " + ", ".join(members)
