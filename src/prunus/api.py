"""The public face: the verbs as functions."""

from __future__ import annotations

from .core.errors import PrunusError
from .recipe import Recipe
from .verbs.compare import Comparison, compare
from .verbs.evaluate import Evaluation, evaluate
from .verbs.export import Exported, export
from .verbs.methods import methods
from .verbs.plan import plan
from .verbs.prune import PruneResult, prune

__all__ = [
    "Comparison",
    "Evaluation",
    "Exported",
    "PruneResult",
    "PrunusError",
    "Recipe",
    "compare",
    "evaluate",
    "export",
    "methods",
    "plan",
    "prune",
]
