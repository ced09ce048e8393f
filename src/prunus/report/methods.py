"""Methods as terminal tables, and as a page of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_FLAGS = {"preset": "--method", "allocator": "--allocation"}
_HOW = "{0}--method{0} names a preset; any axis can be set alone: {0}--solver sparsegpt:damp=0.02{0}"


def methods_table(choices: Sequence[Any]) -> RenderableType:
    """Every choice, an axis at a time: what it does, then what it needs, costs and comes from."""
    lines: list[RenderableType] = []
    for axis, members in groupby(choices, lambda choice: choice.axis):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=12, no_wrap=True)
        grid.add_column()
        for choice in members:
            options = ", ".join(f"{name}={option.default}" for name, option in choice.options.items())
            grid.add_row(Text(choice.name, style="bold"), choice.summary)
            grid.add_row("", Text(_facts(choice, f"options: {options}" if options else ""), style="dim"))
        lines += [Text(f"\n{axis} ({flag(axis)})", style="bold underline"), grid]
    lines.append(Text(f"\n{_HOW.format('')}; prunus methods NAME explains one, option by option", style="dim"))
    return Group(*lines)


def explained(choices: Sequence[Any]) -> RenderableType:
    """Some choices with all that is to be said of them, and their options."""
    lines: list[RenderableType] = []
    for choice in choices:
        lines += [Text(f"\n{flag(choice.axis)} {choice.name}", style="bold underline"), Text(choice.about)]
        lines += [Text(_facts(choice), style="dim")]
        grid = Table.grid(padding=(0, 2))
        for name, option in choice.options.items():
            grid.add_row(Text(f"{name}={option.default}", style="bold"), Text(option.kind, style="dim"), option.meaning)
        lines += [grid] if choice.options else []
    return Group(*lines)


def page(choices: Sequence[Any]) -> str:
    """All of them in Markdown: docs/methods.md."""
    made = f"What `prunus methods NAME` says of each; docs/methods.py writes this page. {_HOW.format('`')}."
    lines = ["# Methods", "", made, "", "X holds a token a row in XᵀX and XWᵀ, a token a column in WX."]
    for axis, members in groupby(choices, lambda choice: choice.axis):
        lines += ["", f"## {axis} (`{flag(axis)}`)"]
        for choice in members:
            lines += ["", f"### {choice.name}", "", choice.about, "", f"*{_facts(choice)}*"]
            if choice.options:
                lines += ["", "| option | takes | default | meaning |", "|---|---|---|---|"]
            for name, option in choice.options.items():
                meaning = option.meaning.replace("|", "\\|")
                lines.append(f"| `{name}` | {option.kind} | {option.default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _facts(choice: Any, options: str = "") -> str:
    return " · ".join(filter(None, (choice.needs, choice.cost, options, choice.paper)))


def flag(axis: str) -> str:
    """The command line's option for an axis."""
    return _FLAGS.get(axis, f"--{axis}")
