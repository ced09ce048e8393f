"""prunus pack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Model, Overwrite, RemoteCode, as_json


def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the packed checkpoint.")],
    storage: Annotated[
        str,
        typer.Option(help="How positions are stored: auto (the smallest), bitmask, nm:n=2,m=4, columns, gaps or dense."),
    ] = "auto",
    values: Annotated[
        str,
        typer.Option(
            help="Survivors' values: auto (as they are), float32, float16, bfloat16, int8, int4, or shared2 to shared8: a "
            "codebook a layer."
        ),
    ] = "auto",
    coder: Annotated[
        str, typer.Option(help="How codes and gaps become bytes: fixed, or for distribution huffman or ans.")
    ] = "fixed",
    group: Annotated[int, typer.Option(help="Columns of a row that share a scale of int4 values; 0: all.", min=0)] = 64,
    head: Annotated[str | None, typer.Option(help="Quantise the language-model head as well: int8 or int4.")] = None,
    overwrite: Overwrite = False,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Write MODEL, pruned or quantised, so that its zeros take no room; `prunus unpack` undoes it."""
    from ..verbs.pack import pack
    from .progress import Bars

    found = pack(
        model, output, storage=storage, values=values, coder=coder, group=group, head=head, overwrite=overwrite,
        trust_remote_code=trust_remote_code, progress=Bars(),
    )  # fmt: skip
    if json:
        typer.echo(as_json(found))
        return
    from rich.console import Console

    from ..report.packed import packed_table

    Console().print(packed_table(found))
