"""How fast this machine multiplies matrices, and how fast a network's passes are."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

from ..core.matmul import linear


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a 1024-wide matrix product here; the best of a few tries."""
    a = torch.ones(1024, 1024, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = perf_counter()
        with torch.no_grad():
            linear(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, perf_counter() - start)
    return 2 * 1024**3 / best


@torch.no_grad()
def forward_seconds(models: list[torch.nn.Module], inputs: torch.Tensor, warmup: int, repeats: int) -> list[float]:
    """Seconds of a forward pass of each model over ``inputs``: taken in turn, medians of ``repeats`` after ``warmup``."""
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(warmup + repeats):
        for model, spent in zip(models, seconds, strict=True):
            start = perf_counter()
            model(inputs)
            if inputs.device.type == "cuda":
                torch.cuda.synchronize(inputs.device)
            if turn >= warmup:
                spent.append(perf_counter() - start)
    return [median(spent) for spent in seconds]
