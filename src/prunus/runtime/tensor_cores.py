"""2:4 weights on a GPU's sparse tensor cores, where a measurement on that GPU finds them faster."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from ..core.progress import Progress
from ..storage.nm import NMStorage
from .choose import COLD_BYTES, Choice, times
from .load import Loaded, swap

_PAIRS = NMStorage(2, 4)


def to_gpu(loaded: Loaded, device: torch.device, dtype: torch.dtype, tokens: int, progress: Progress) -> list[Choice]:
    """Move an unpacked model to a GPU, and let its 2:4 layers multiply on sparse tensor cores where that is faster there.

    Layers of each shape are timed both ways at ``tokens`` tokens, in turns; medians are compared. A layer that these cores
    do not take (shape, dtype or GPU) stays dense, and ``loaded.layers`` says why.
    """
    loaded.model.to(device=device, dtype=dtype)
    shapes: dict[tuple[int, int], list[str]] = defaultdict(list)
    for path, module in loaded.model.named_modules():
        if isinstance(module, nn.Linear) and is_pairs(module.weight.detach()):
            shapes[module.out_features, module.in_features].append(path)
    progress.start("Timing layers", len(shapes))
    choices = []
    for (rows, cols), paths in shapes.items():
        choice = _choose(loaded, paths, (rows, cols), tokens, dtype)
        choices += [] if choice is None else [choice]
        progress.step(f"{rows}×{cols}")
    return choices


def is_pairs(weight: Tensor) -> bool:
    """Whether of every four columns of ``weight [rows cols]`` two or more are zero, everywhere."""
    return weight.shape[1] % 4 == 0 and _PAIRS.fault(weight != 0) is None


def sparse(linear: nn.Linear) -> nn.Linear:
    """The same layer with its 2:4 weight compressed for sparse tensor cores.

    Raises:
        RuntimeError, ValueError, NotImplementedError: if these cores do not take it.
    """
    made = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its interface a prototype
        compressed = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
    made.weight = nn.Parameter(compressed, requires_grad=False)
    made.bias = linear.bias
    return made


def _choose(loaded: Loaded, paths: list[str], shape: tuple[int, int], tokens: int, dtype: torch.dtype) -> Choice | None:
    rows, cols = shape
    some = paths[: max(1, min(len(paths), COLD_BYTES // (dtype.itemsize * rows * cols)))]
    dense: list[Any] = [loaded.model.get_submodule(path) for path in some]
    x = torch.randn(tokens, cols, device=dense[0].weight.device, dtype=dtype)
    try:
        compressed: list[Any] = [sparse(module) for module in dense]
        compressed[0](x)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        loaded.layers.update(dict.fromkeys(paths, f"dense: sparse tensor cores do not take it ({reason})"))
        return None
    sparse_seconds, dense_seconds = times((compressed, dense), x)
    keeps = sparse_seconds < dense_seconds
    made = dict(zip(some, compressed, strict=True))
    for path in paths:
        if keeps:
            swap(loaded.model, path, made[path] if path in made else sparse(loaded.model.get_submodule(path)))
        loaded.layers[path] = "2:4 sparse tensor cores" if keeps else "dense: faster here"
    kind = str(dtype).removeprefix("torch.")
    return Choice(f"2:4 {kind}", rows, cols, len(paths), sparse_seconds, dense_seconds, keeps)
