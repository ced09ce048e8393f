"""prunus lottery"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Overwrite, OwnData, OwnDevice, OwnNetwork, OwnSeeds, Resume, Threads, as_json, whole_numbers


def command(
    recipe: Annotated[Path, typer.Argument(help="TOML file of settings; recipes/lottery has some.", dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of masks, weights, table and pictures.")],
    model: OwnNetwork = None,
    data: OwnData = None,
    levels: Annotated[int | None, typer.Option(min=1, help="How often weights are pruned and rewound.")] = None,
    seeds: OwnSeeds = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Train no network for more epochs than this.")] = None,
    device: OwnDevice = None,
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Search for lottery tickets as a RECIPE says: prune, rewind, train again; with controls, curves and a table."""
    from ..lottery_recipe import LotteryRecipe
    from ..verbs.lottery import lottery
    from .progress import Bars

    given = {"model": model, "data": data, "levels": levels, "device": device, "threads": threads,
             "seeds": whole_numbers(seeds)}  # fmt: skip
    wanted = LotteryRecipe.read(recipe, given)
    if epochs is not None:
        wanted = wanted.at_most(epochs)
    found = lottery(output, wanted, resume=resume, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(found.record))
        return
    from rich.console import Console

    from ..report.lottery import lottery_table

    Console().print(lottery_table(found.record))
