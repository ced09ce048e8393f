"""prunus prune"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Model, Overwrite, Resume, as_json, with_recipe

if TYPE_CHECKING:
    from ..recipe import Recipe
else:
    Recipe = object


@with_recipe
def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the pruned checkpoint.")],
    recipe: Recipe,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Prune MODEL into OUTPUT: a checkpoint that loads where the old one did, with a table of what it cost."""
    from ..verbs.prune import prune
    from .progress import Bars

    result = prune(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(result.record))
        return
    from rich.console import Console

    from ..report.tables import prune_table

    Console().print(prune_table(result.record))
