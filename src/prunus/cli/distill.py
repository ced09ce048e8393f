"""prunus distill"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag, Model, Overwrite, Resume, with_heal_recipe

if TYPE_CHECKING:
    from ..heal_recipe import HealRecipe
else:
    HealRecipe = object


@with_heal_recipe
def command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the healed checkpoint.")],
    recipe: HealRecipe,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """Train the student MODEL on what a --teacher says of some text; zeros stay zero."""
    from ..verbs.distill import distill
    from .healed import tell
    from .progress import Bars

    tell(distill(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars()), json)
