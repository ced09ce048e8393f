"""prunus train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Overwrite, OwnData, OwnDevice, OwnNetwork, OwnSeeds, Resume, Threads, as_json, whole_numbers


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file of settings and runs; recipes/train has some.", dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the runs' weights, table and pictures.")],
    model: OwnNetwork = None,
    data: OwnData = None,
    seeds: OwnSeeds = None,
    run: Annotated[
        list[str] | None,
        typer.Option(help="Make this run alone, and those that it begins with or learns from (repeatable)."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Train no run for more epochs than this.")] = None,
    device: OwnDevice = None,
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Train, prune and train on the networks of a RECIPE, and compare them: table, pictures, weights."""
    from ..train_recipe import TrainRecipe
    from ..verbs.train import train_runs
    from .progress import Bars

    given = {"model": model, "data": data, "device": device, "threads": threads, "seeds": whole_numbers(seeds)}
    wanted = TrainRecipe.read(recipe, given)
    if run:
        wanted = wanted.only(run)
    if epochs is not None:
        wanted = wanted.at_most(epochs)
    found = train_runs(output, wanted, resume=resume, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(found.record))
        return
    from rich.console import Console

    from ..report.trained import train_table

    Console().print(train_table(found.record))
