"""prunus makes trained neural networks smaller, with little loss, and proves what it did.

>>> import prunus
>>> [choice.name for choice in prunus.methods() if choice.axis == "preset"]
['magnitude', 'wanda', 'sparsegpt', 'fast', 'balanced', 'best']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Bench,
        CompareRecipe,
        Comparison,
        Evaluation,
        Exported,
        Generation,
        HealRecipe,
        HealResult,
        Inspection,
        LotteryRecipe,
        LotteryResult,
        Masks,
        ModuleCut,
        ModuleInspection,
        Packed,
        PruneResult,
        PrunusError,
        Recipe,
        Reported,
        SharedWeights,
        ShrinkRecipe,
        ShrinkResult,
        Sparse,
        Sparsifier,
        ThresholdRecipe,
        ThresholdResult,
        TrainRecipe,
        TrainResult,
        Unpacked,
        bench,
        compare,
        distill,
        evaluate,
        export,
        generate,
        inspect,
        inspect_module,
        load,
        load_module,
        lottery,
        methods,
        pack,
        plan,
        prune,
        recover,
        report_runs,
        share_weights,
        shrink,
        shrink_family,
        shrink_module,
        threshold,
        train_runs,
        unpack,
    )

__version__ = "0.1.0"
__all__ = [
    "Bench",
    "CompareRecipe",
    "Comparison",
    "Evaluation",
    "Exported",
    "Generation",
    "HealRecipe",
    "HealResult",
    "Inspection",
    "LotteryRecipe",
    "LotteryResult",
    "Masks",
    "ModuleCut",
    "ModuleInspection",
    "Packed",
    "PruneResult",
    "PrunusError",
    "Recipe",
    "Reported",
    "SharedWeights",
    "ShrinkRecipe",
    "ShrinkResult",
    "Sparse",
    "Sparsifier",
    "ThresholdRecipe",
    "ThresholdResult",
    "TrainRecipe",
    "TrainResult",
    "Unpacked",
    "bench",
    "compare",
    "distill",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "inspect_module",
    "load",
    "load_module",
    "lottery",
    "methods",
    "pack",
    "plan",
    "prune",
    "recover",
    "report_runs",
    "share_weights",
    "shrink",
    "shrink_family",
    "shrink_module",
    "threshold",
    "train_runs",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """The verbs, imported when first used: ``prunus --help`` should not wait for torch."""
    if name in __all__:
        return getattr(importlib.import_module(".api", __name__), name)
    raise AttributeError(f"module 'prunus' has no attribute '{name}'")
