"""prunus recover"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Model, as_json, with_heal_recipe

if TYPE_CHECKING:
    from ..heal_recipe import HealRecipe
else:
    HealRecipe = object


@with_heal_recipe
def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the healed checkpoint.")],
    recipe: HealRecipe,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a stopped run (or start, if there is none).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT once the new one is complete.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a pruned MODEL on, on text alone or towards a --teacher; zeros stay zero."""
    from ..train.ranks import is_first
    from ..verbs.recover import recover
    from .progress import Bars

    result = recover(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars())
    if not is_first():
        return
    if json:
        typer.echo(as_json(result.record))
        return
    from rich.console import Console

    from ..report.healed import healed_table

    Console().print(healed_table(result.record))
