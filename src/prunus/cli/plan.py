"""prunus plan"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .options import JsonFlag, Model, as_json, with_recipe

if TYPE_CHECKING:
    from ..recipe import Recipe
else:
    Recipe = object


@with_recipe
def command(
    model: Model,
    recipe: Recipe,
    json: JsonFlag = False,
) -> None:
    """Print everything that `prune` would do with these settings, with memory and time; write nothing."""
    from ..verbs.plan import plan
    from .progress import Bars

    found = plan(model, recipe, progress=Bars())
    if json:
        estimate = found.estimate
        typer.echo(as_json({**found.to_json(), "estimate": estimate.__dict__ if estimate else None}))
        return
    from rich.console import Console

    from ..report.tables import plan_table

    Console().print(plan_table(found))
