"""The public face: the verbs as functions."""

from __future__ import annotations

from .compare_recipe import CompareRecipe
from .core.errors import PrunusError
from .heal_recipe import HealRecipe
from .lottery_recipe import LotteryRecipe
from .recipe import Recipe
from .shrink_recipe import ShrinkRecipe
from .threshold_recipe import ThresholdRecipe
from .train.masks import Masks
from .train.shared import SharedWeights, share_weights
from .train_recipe import TrainRecipe
from .verbs.bench import Bench, bench
from .verbs.compare import Comparison, compare
from .verbs.distill import distill
from .verbs.evaluate import Evaluation, evaluate
from .verbs.export import Exported, export
from .verbs.generate import Generation, generate
from .verbs.healing import HealResult
from .verbs.inspect import Inspection, ModuleInspection, inspect, inspect_module
from .verbs.load import load
from .verbs.lottery import LotteryResult, lottery
from .verbs.methods import methods
from .verbs.pack import Packed, pack
from .verbs.plan import plan
from .verbs.prune import PruneResult, prune
from .verbs.recover import recover
from .verbs.report import Reported, report_runs
from .verbs.shrink import ShrinkResult, shrink, shrink_family
from .verbs.shrink_module import ModuleCut, load_module, shrink_module
from .verbs.sparsifier import Sparse, Sparsifier
from .verbs.threshold import ThresholdResult, threshold
from .verbs.train import TrainResult, train_runs
from .verbs.unpack import Unpacked, unpack

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
