"""prunus bench"""

from __future__ import annotations

from typing import Annotated

import typer

from .generate import Keep, Threads
from .options import Activations, JsonFlag, Model, RemoteCode, as_json


def command(
    model: Model,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="Way beside it: float32, bfloat16, 'torch int8', 'dense int8', onnxruntime, 'onnxruntime int8', "
            "llama.cpp, 'llama.cpp q8_0' (repeatable; default: all that are installed)."
        ),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens decoded after it.", min=2)] = 32,
    batch: Annotated[int, typer.Option(help="Prompts at once.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="Timed turns of every way.", min=1)] = 10,
    activations: Activations = None,
    keep: Keep = "fastest",
    threads: Threads = None,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Tokens a second of MODEL, packed or plain, beside dense ways to run it, in turns, and how near the memory's limit."""
    from ..verbs.bench import bench
    from .progress import Bars

    found = bench(
        model, ways=way, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch, repeats=repeats,
        activations=activations, keep=keep, threads=threads, trust_remote_code=trust_remote_code, progress=Bars(),
    )  # fmt: skip
    if json:
        typer.echo(as_json(found.record))
        return
    from rich.console import Console

    from ..report.bench import bench_table

    Console().print(bench_table(found))
