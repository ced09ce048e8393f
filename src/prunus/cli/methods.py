"""prunus methods"""

from __future__ import annotations

import typer

from .options import JsonFlag, as_json


def command(json: JsonFlag = False) -> None:
    """List every preset, and every criterion, pattern, allocator, target, solver, grid and stage."""
    from dataclasses import asdict

    from ..verbs.methods import methods

    found = methods()
    if json:
        typer.echo(as_json([asdict(choice) for choice in found]))
        return
    from rich.console import Console

    from ..report.tables import methods_table

    Console().print(methods_table(found))
