"""prunus compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Overwrite, as_json, with_compare_recipe

if TYPE_CHECKING:
    from ..compare_recipe import CompareRecipe
else:
    CompareRecipe = object


@with_compare_recipe
def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="The model before, then those after.")],
    recipe: CompareRecipe,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the record.", dir_okay=False)] = None,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Models side by side: perplexity, KL, tasks, size, memory, tokens a second, energy, and continuations."""
    from ..verbs.compare import compare
    from .progress import Bars

    found = compare(*models, recipe=recipe, output=output, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(found.record))
        return
    from rich.console import Console

    from ..report.compared import compare_table

    Console().print(compare_table(found))
