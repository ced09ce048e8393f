"""plan: everything a run would do, and what it would take; writes nothing."""

from __future__ import annotations

from pathlib import Path

from ..core.plan import Plan
from ..core.progress import Progress, Silent
from ..recipe import Recipe
from .prepare import prepare_checkpoint


def plan(model: str | Path, recipe: Recipe | None = None, *, progress: Progress | None = None, **settings: object) -> Plan:
    """The complete Plan of pruning ``model``, with memory and time estimates; the arguments are those of ``prune``."""
    wanted = recipe if recipe is not None else Recipe.of(settings)
    reporter = progress or Silent()
    try:
        return prepare_checkpoint(model, wanted, reporter).plan
    finally:
        reporter.close()
