"""prunus eval"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Activations, Device, Dtype, JsonFlag, Model, RemoteCode, Seqlen, Text, as_json


def command(
    model: Model,
    text: Text = "factbook-heldout",
    seqlen: Seqlen = 512,
    windows: Annotated[int | None, typer.Option(help="Read at most this many windows (default: all).", min=1)] = None,
    activations: Activations = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Perplexity of MODEL: exp of the mean token loss over non-overlapping windows, streamed block by block."""
    from ..verbs.evaluate import evaluate
    from .progress import Bars

    found = evaluate(
        model, text, seqlen=seqlen, windows=windows, activations=activations, device=device, dtype=dtype,
        trust_remote_code=trust_remote_code, progress=Bars(),
    )  # fmt: skip
    if json:
        typer.echo(as_json(found))
    else:
        sure = "" if found.interval is None else f", 95% interval {found.interval.low:.4f} to {found.interval.high:.4f}"
        about = f"{found.tokens} tokens of {found.text}, windows of {found.seqlen}"
        typer.echo(f"perplexity {found.perplexity:.4f}{sure}  ({about})")
        if found.activations is not None:
            from rich.console import Console

            from ..report.thresholds import use_table

            Console().print(use_table(found.activations))
