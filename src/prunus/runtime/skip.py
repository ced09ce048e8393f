"""A loaded model made to skip columns: where thresholds say so, and where a measurement here finds it faster."""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..checkpoint.thresholds_file import read_thresholds
from ..core.errors import RecipeError, UnsupportedModelError
from ..core.progress import Progress
from ..core.thresholds import InputThreshold
from ..models.sites import is_transposed_linear
from ..models.thresholding import check_fits
from .arranged import Arranged, by_column, dense_by_column
from .choose import COLD_BYTES, Choice, times
from .library import kernels
from .linear import PackedLinear
from .load import Loaded, swap
from .skipping import Phase, SkippingLinear


def skip_columns(loaded: Loaded, folder: Path, file: Path, keep: str, progress: Progress) -> list[Choice]:
    """Let the layers that thresholds in ``file`` are for skip columns, of each shape and level where that is faster here
    (or all, with ``keep`` "packed"). A layer that runs dense reads all of its input: what gains nothing is not cut either.

    Raises:
        CheckpointError: if the file cannot be read, or is for another model.
        UnsupportedModelError: if layers are packed so that columns cannot be skipped, or the model keeps no cache.
        RecipeError: if there are no kernels here.
    """
    thresholds = read_thresholds(file)
    check_fits(thresholds, loaded.model, Checkpoint.open(folder).fingerprint, str(file))
    if kernels() is None:
        raise RecipeError(["activations: columns are skipped by prunus's kernels, and there are none here"])
    if "past_key_values" not in inspect.signature(loaded.model.forward).parameters:
        raise UnsupportedModelError(
            f"{type(loaded.model).__name__}: it keeps no keys and values of what it has read (past_key_values), so that "
            "prompts, which are computed dense, cannot be told from what follows."
        )
    layers = {path: one for one in thresholds.inputs for path in one.layers}
    _refuse_packed(loaded.model, layers)
    groups: dict[tuple[str, int, int, float], list[str]] = defaultdict(list)
    for path, one in layers.items():
        rows, cols = one.layers[path]
        groups[_kind(loaded.model.get_submodule(path)), rows, cols, round(one.level, 1)].append(path)
    progress.start("Timing layers", len(groups))
    phase, choices = Phase(loaded.model), []
    for (_, rows, cols, level), paths in groups.items():
        choice = _choose(loaded, layers, paths, phase) if keep == "fastest" else None
        for path in paths if choice is None or choice.keeps_packed else ():
            made = _skipping(loaded.model.get_submodule(path), layers[path].threshold, phase)
            swap(loaded.model, path, made)
            loaded.layers[path] = made.arranged.layout
        choices += [] if choice is None else [choice]
        progress.step(f"{rows}×{cols} at {level:.0%}")
    return choices


def _refuse_packed(model: Any, layers: dict[str, InputThreshold]) -> None:
    odd = {}
    for path in layers:
        module = model.get_submodule(path)
        if isinstance(module, PackedLinear) and dense_by_column(module.arranged) is None:
            one = module.arranged
            odd[path] = one.layout + (f", scales for {one.group} columns" if one.group else "")
    if odd:
        path = next(iter(odd))
        raise UnsupportedModelError(
            f"{path}: it is packed ({odd[path]}; {len(odd)} such layers), and columns are skipped only of weights that are "
            "stored whole: plain, or packed as dense bfloat16 or int8 with a scale a row. Leave out the activations, or "
            "unpack the model: prunus unpack."
        )


def _kind(module: Any) -> str:
    if isinstance(module, PackedLinear):
        return module.arranged.layout.removeprefix("dense ")
    return "bfloat16" if _is_narrow(module.weight.detach()) else "float32"


def _is_narrow(weight: Tensor) -> bool:
    """Whether fp32 weights are bf16 ones, as they are where a checkpoint stores them so."""
    return bool((weight.view(torch.int32) & 0xFFFF).eq(0).all())


def _skipping(module: Any, threshold: float, phase: Phase) -> SkippingLinear:
    """The same layer, kept column by column in the fewest bytes that lose nothing."""
    found = kernels()
    assert found is not None
    arranged: Arranged | None
    if isinstance(module, PackedLinear):
        arranged = dense_by_column(module.arranged)
        assert arranged is not None
    else:
        weight = module.weight.detach()
        narrow = weight.bfloat16() if _is_narrow(weight) else weight
        arranged = by_column(narrow.T if is_transposed_linear(module) else narrow)
    return SkippingLinear(arranged, None if module.bias is None else module.bias.detach(), found, threshold, phase)


def _choose(loaded: Loaded, layers: dict[str, InputThreshold], paths: list[str], phase: Phase) -> Choice:
    """Time layers of one shape and level as they are, and skipping columns, at one token of that level."""
    one = layers[paths[0]]
    rows, cols = one.layers[paths[0]]
    some = paths[: max(1, min(len(paths), COLD_BYTES // (4 * rows * cols)))]
    dense: list[Any] = [loaded.model.get_submodule(path) for path in some]
    skipping = [_skipping(module, layers[path].threshold, phase) for path, module in zip(some, dense, strict=True)]
    large = 2 * max(layers[path].threshold for path in some) + 1
    x = torch.where(torch.rand(1, cols) < one.level, torch.zeros(()), torch.full((), large))
    phase.prompt = False
    skipping_seconds, dense_seconds = times((skipping, dense), x)
    phase.prompt = True
    label = f"{skipping[0].arranged.layout}, {one.level:.0%} skipped"
    return Choice(label, rows, cols, len(paths), skipping_seconds, dense_seconds, skipping_seconds < dense_seconds)
