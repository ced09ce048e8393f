"""prunus compare"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Activations, Device, Dtype, JsonFlag, RemoteCode, Seqlen, Text, as_json


def command(
    dense: Annotated[str, typer.Argument(help="The model before.")],
    pruned: Annotated[str, typer.Argument(help="The model after.")],
    text: Text = "factbook-heldout",
    seqlen: Seqlen = 512,
    windows: Annotated[int, typer.Option(help="Read at most this many windows.", min=1)] = 32,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Prompt to continue (repeatable).")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens of a continuation.", min=1)] = 32,
    activations: Activations = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """DENSE against PRUNED: perplexity, KL, size, non-zeros, tokens a second, and continuations side by side."""
    from ..verbs.compare import PROMPTS, compare
    from .progress import Bars

    found = compare(
        dense, pruned, text, seqlen=seqlen, windows=windows, prompts=prompt or PROMPTS, new_tokens=new_tokens,
        activations=activations, device=device, dtype=dtype, trust_remote_code=trust_remote_code, progress=Bars(),
    )  # fmt: skip
    if json:
        typer.echo(as_json(found))
        return
    from rich.console import Console

    from ..report.tables import compare_table

    Console().print(compare_table(found))
