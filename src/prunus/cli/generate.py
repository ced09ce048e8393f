"""prunus generate"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from .options import Activations, JsonFlag, Model, RemoteCode, as_json

Keep = Annotated[
    Literal["fastest", "packed"], typer.Option(help="Run packed layers dense where that is faster here, or all packed.")
]
Threads = Annotated[int | None, typer.Option(help="Threads to use (default: all cores).", min=1)]


def command(
    model: Model,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="Text to continue (repeatable: one batch).")],
    new_tokens: Annotated[int, typer.Option(help="Tokens to add, at most.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token; above: drawn at random.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that make up this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from so many likeliest tokens (0: all).", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")] = False,
    activations: Activations = None,
    keep: Keep = "fastest",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "cpu",
    threads: Threads = None,
    trust_remote_code: RemoteCode = False,
    json: JsonFlag = False,
) -> None:
    """Continue a prompt with MODEL, packed or plain."""
    from ..verbs.generate import generate
    from .progress import Bars

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    found = generate(
        model, prompt, new_tokens=new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, chat=chat,
        activations=activations, keep=keep, device=device, threads=threads, trust_remote_code=trust_remote_code,
        progress=Bars(), say=None if json else say,
    )  # fmt: skip
    if json:
        typer.echo(as_json(found))
        return
    if len(prompt) > 1:
        for asked, text in zip(found.prompts, found.texts, strict=True):
            typer.echo(f"{asked} → {text}\n")
    typer.echo(
        f"\n{found.new_tokens} tokens in {found.seconds:.1f} s, {found.tokens_per_second:.1f} a second; "
        f"{found.packed_layers} of {found.linear_layers} linear layers packed or skipping columns ({found.backend})",
        err=True,
    )
