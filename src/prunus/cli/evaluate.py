"""prunus eval"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonFlag, as_json


def command(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, .gguf file, pkg:PACKAGE or hub id.")],
    text: Annotated[
        str, typer.Option("--text", "-t", help="Text file, folder, JSONL, Parquet or dataset id.")
    ] = "factbook-heldout",
    seqlen: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    windows: Annotated[int | None, typer.Option(help="Read at most this many windows (default: all).", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="Compute dtype: auto, float32, bfloat16, float16.")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option(help="Allow the checkpoint's own Python code to run.")] = False,
    json: JsonFlag = False,
) -> None:
    """Perplexity of MODEL: exp of the mean token loss over non-overlapping windows, streamed block by block."""
    from ..verbs.evaluate import evaluate
    from .progress import Bars

    found = evaluate(
        model, text, seqlen=seqlen, windows=windows, device=device, dtype=dtype, trust_remote_code=trust_remote_code,
        progress=Bars(),
    )  # fmt: skip
    if json:
        typer.echo(as_json(found))
    else:
        typer.echo(f"perplexity {found.perplexity:.4f}  ({found.tokens} tokens of {found.text}, windows of {found.seqlen})")
