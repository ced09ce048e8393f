"""prunus unpack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Model, Overwrite, as_json


def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the plain checkpoint.")],
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Write the plain checkpoint that was packed into MODEL: the same bytes, where values were not rounded."""
    from ..verbs.unpack import unpack
    from .progress import Bars

    found = unpack(model, output, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(found))
        return
    megabytes = f"{found.packed_bytes / 1e6:.1f} MB to {found.plain_bytes / 1e6:.1f} MB"
    typer.echo(f"{found.output}: {found.layers} layers unpacked, {megabytes}")
