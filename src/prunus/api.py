"""The public face: the verbs as functions."""

from __future__ import annotations

from .core.errors import PrunusError
from .heal_recipe import HealRecipe
from .recipe import Recipe
from .shrink_recipe import ShrinkRecipe
from .verbs.compare import Comparison, compare
from .verbs.distill import distill
from .verbs.evaluate import Evaluation, evaluate
from .verbs.export import Exported, export
from .verbs.healing import HealResult
from .verbs.inspect import Inspection, ModuleInspection, inspect, inspect_module
from .verbs.methods import methods
from .verbs.plan import plan
from .verbs.prune import PruneResult, prune
from .verbs.recover import recover
from .verbs.shrink import ShrinkResult, shrink, shrink_family
from .verbs.shrink_module import ModuleCut, load_module, shrink_module

__all__ = [
    "Comparison",
    "Evaluation",
    "Exported",
    "HealRecipe",
    "HealResult",
    "Inspection",
    "ModuleCut",
    "ModuleInspection",
    "PruneResult",
    "PrunusError",
    "Recipe",
    "ShrinkRecipe",
    "ShrinkResult",
    "compare",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "inspect_module",
    "load_module",
    "methods",
    "plan",
    "prune",
    "recover",
    "shrink",
    "shrink_family",
    "shrink_module",
]
