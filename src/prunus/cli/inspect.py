"""prunus inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonFlag, Model, RemoteCode, as_json


def command(
    model: Model,
    couplings: Annotated[
        bool, typer.Option("--couplings", help="List which tensors shrink together, block by block, not in short.")
    ] = False,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Along what MODEL can be cut, in which steps, and what cannot be cut, with the reasons."""
    from ..verbs.inspect import Inspection, inspect

    found = inspect(model, trust_remote_code=trust_remote_code)
    if json:
        typer.echo(as_json(found.to_json()))
        return
    from rich.console import Console

    from ..report.couplings import couplings_table, module_table

    table = couplings_table if isinstance(found, Inspection) else module_table
    Console().print(table(found, whole=couplings))
