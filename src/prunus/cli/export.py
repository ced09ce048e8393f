"""prunus export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Model, RemoteCode, as_json


def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is written.")],
    to: Annotated[str, typer.Option(help="Format: compressed-tensors, gguf, onnx or torch-export.")] = "compressed-tensors",
    dtype: Annotated[
        str, typer.Option(help="What weights are stored in: float32, float16, bfloat16; GGUF: q8_0, q4_0, ….")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT once the new one is complete.")] = False,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Write MODEL in a format that other programs read; what was written is loaded again and compared with MODEL."""
    from ..verbs.export import export
    from .progress import Bars

    found = export(model, output, to=to, dtype=dtype, overwrite=overwrite, trust_remote_code=trust_remote_code,
                   progress=Bars())  # fmt: skip
    if json:
        typer.echo(as_json(found))
        return
    megabytes = f"{found.plain_bytes / 1e6:.1f} MB to {found.packed_bytes / 1e6:.1f} MB"
    packed = f"{found.layers} layers packed, " if found.layers else ""
    typer.echo(f"{found.output}: {found.layout}, {packed}tensors {megabytes}")
    for check in found.checks:
        typer.echo(
            f"  {check.reader} on {check.tokens} tokens: logits differ by {check.largest:.2g} at most (the largest is "
            f"{check.scale:.3g}), KL {check.kl:.2g}, the same token likeliest for {check.agreement:.1%}"
        )
    for note in found.notes:
        typer.echo(f"  {note}")
