"""plan: everything a run would do, and what it would take; writes no output."""

from __future__ import annotations

from pathlib import Path

from ..core.plan import Plan
from ..core.progress import Progress, Silent
from ..recipe import Recipe
from .prepare import prepare_checkpoint


def plan(model: str | Path, recipe: Recipe | None = None, *, progress: Progress | None = None, **settings: object) -> Plan:
    """The complete Plan of pruning a ``model`` on disk, with memory and time estimates.

    ``recipe`` or ``settings`` are as for ``prune``. Allocators that look at the model do so, ``sensitivity`` and ``evolve``
    for long.

    Raises:
        RecipeError: if settings are given beside a recipe, have faults, or do not fit the model.
        CheckpointError, UnsupportedModelError: if the model cannot be read or followed.
        CalibrationError: if the text cannot be used.
    """
    wanted = Recipe.either(recipe, settings)
    reporter = progress or Silent()
    try:
        return prepare_checkpoint(model, wanted, reporter).plan
    finally:
        reporter.close()
