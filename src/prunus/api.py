"""The public face: the verbs as functions."""

from __future__ import annotations

from .core.errors import PrunusError
from .recipe import Recipe
from .shrink_recipe import ShrinkRecipe
from .verbs.compare import Comparison, compare
from .verbs.evaluate import Evaluation, evaluate
from .verbs.export import Exported, export
from .verbs.inspect import Inspection, inspect
from .verbs.methods import methods
from .verbs.plan import plan
from .verbs.prune import PruneResult, prune
from .verbs.shrink import ShrinkResult, shrink, shrink_family

__all__ = [
    "Comparison",
    "Evaluation",
    "Exported",
    "Inspection",
    "PruneResult",
    "PrunusError",
    "Recipe",
    "ShrinkRecipe",
    "ShrinkResult",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "methods",
    "plan",
    "prune",
    "shrink",
    "shrink_family",
]
