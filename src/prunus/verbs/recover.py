"""recover: a pruned model trained on until it is as good as it can be, its zeros and shapes as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.progress import Progress
from ..heal_recipe import HealRecipe
from .healing import HealResult, heal


def recover(model: str | Path, output: str | Path, recipe: HealRecipe | None = None, *, resume: bool = False,
            overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> HealResult:  # fmt: skip
    """Fine-tune a pruned or smaller model on text, all weights or low-rank updates (``lora=16``); zeros stay zero.

    With a ``teacher`` it learns the teacher's distributions in place of the text alone. ``settings`` are a
    :class:`~prunus.heal_recipe.HealRecipe`'s fields, or give a whole ``recipe``. ``resume`` goes on with a stopped run;
    ``overwrite`` replaces ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = HealRecipe.either(recipe, settings)
    return heal("recover", model, Path(output).expanduser(), wanted, (resume, overwrite), progress)
