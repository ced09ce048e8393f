"""prunus threshold"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Model, as_json, with_threshold_recipe

if TYPE_CHECKING:
    from ..threshold_recipe import ThresholdRecipe
else:
    ThresholdRecipe = object


@with_threshold_recipe
def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="File of thresholds to write (JSON).")],
    recipe: ThresholdRecipe,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT once the new one is complete.")] = False,
    json: JsonFlag = False,
) -> None:
    """Find how small activations of MODEL must be to count as zero, so that weights they meet need not be read."""
    from ..verbs.threshold import threshold
    from .progress import Bars

    found = threshold(model, output, recipe, overwrite=overwrite, progress=Bars())
    if json:
        typer.echo(as_json(found))
        return
    from rich.console import Console

    from ..report.thresholds import threshold_table

    Console().print(threshold_table(found))
