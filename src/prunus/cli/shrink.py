"""prunus shrink"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Model, Overwrite, Resume, as_json, with_shrink_recipe

if TYPE_CHECKING:
    from ..shrink_recipe import ShrinkRecipe
else:
    ShrinkRecipe = object


@with_shrink_recipe
def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the smaller checkpoint.")],
    recipe: ShrinkRecipe,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Cut heads, neurons, width, experts or blocks out of MODEL; OUTPUT is smaller and loads like any checkpoint.

    Of several targets each gives a model of its own in a folder in OUTPUT.
    """
    from ..verbs.shrink import shrink, shrink_family
    from .progress import Bars

    family = len(recipe.targets()) > 1
    if family:
        results = shrink_family(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars())
    else:
        results = [shrink(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars())]
    if json:
        typer.echo(as_json({"family": [one.record for one in results]} if family else results[0].record))
        return
    from rich.console import Console

    from ..report.shrunk import shrink_table

    for one in results:
        Console().print(shrink_table(one.record))
