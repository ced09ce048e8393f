"""distill: a smaller model that learns to say what a larger one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import RecipeError
from ..core.progress import Progress
from ..heal_recipe import HealRecipe
from .healing import HealResult, heal


def distill(model: str | Path, output: str | Path, recipe: HealRecipe | None = None, *, resume: bool = False,
            overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> HealResult:  # fmt: skip
    """Train a student, ``model``, on what its ``teacher`` says of some text (``teacher`` is a setting like the others).

    The teacher's likeliest tokens are computed once, block by block, and kept on disk; losses of hidden states run it
    beside the student. ``settings`` are a :class:`~prunus.heal_recipe.HealRecipe`'s fields, or give a whole ``recipe``.
    ``resume`` goes on with a stopped run; ``overwrite`` replaces ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = HealRecipe.either(recipe, settings)
    if wanted.teacher is None:
        raise RecipeError(["a student needs a teacher: --teacher MODEL (without one, prunus recover trains on text alone)"])
    return heal("distill", model, Path(output).expanduser(), wanted, (resume, overwrite), progress)
