"""prunus methods"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonFlag, as_json

Names = Annotated[list[str] | None, typer.Argument(help="Methods to explain, option by option (default: list all).")]


def command(names: Names = None, json: JsonFlag = False) -> None:
    """List every preset, and every criterion, pattern, allocator, target, solver, grid and stage; or explain some."""
    from dataclasses import asdict

    from ..verbs.methods import methods

    found = methods(*names or ())
    if json:
        typer.echo(as_json([asdict(choice) for choice in found]))
        return
    from rich.console import Console

    from ..report.methods import explained, methods_table

    Console().print(explained(found) if names else methods_table(found))
