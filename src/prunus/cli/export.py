"""prunus export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Model, RemoteCode, as_json


def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the packed checkpoint.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT once the new one is complete.")] = False,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Write MODEL, pruned or quantised with --grid, as a packed compressed-tensors checkpoint for serving engines."""
    from ..verbs.export import export
    from .progress import Bars

    found = export(model, output, overwrite=overwrite, trust_remote_code=trust_remote_code, progress=Bars())
    if json:
        typer.echo(as_json(found))
        return
    megabytes = f"{found.plain_bytes / 1e6:.1f} MB to {found.packed_bytes / 1e6:.1f} MB"
    typer.echo(f"{found.output}: {found.layers} layers packed ({found.layout}), tensors {megabytes}")
