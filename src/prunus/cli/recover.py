"""prunus recover"""

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
    """Train a pruned MODEL on, on text alone or towards a --teacher; zeros stay zero."""
    from ..verbs.recover import recover
    from .healed import tell
    from .progress import Bars

    tell(recover(model, output, recipe, resume=resume, overwrite=overwrite, progress=Bars()), json)
