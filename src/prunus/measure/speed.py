"""How fast this machine multiplies matrices, and how fast a model generates."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

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


def decode_speeds(models: list[Any], ids: torch.Tensor, new_tokens: int, repeats: int) -> list[float]:
    """Generated tokens a second of each model after prompt ``ids [1 tokens]``: interleaved runs, medians."""
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(repeats + 1):
        for model, spent in zip(models, seconds, strict=True):
            start = perf_counter()
            generate(model, ids, new_tokens)
            if turn:
                spent.append(perf_counter() - start)
    return [new_tokens / median(spent) for spent in seconds]


@torch.no_grad()
def generate(model: Any, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Exactly ``new_tokens`` greedy tokens after ``ids [1 tokens]``."""
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
        do_sample=False, temperature=None, top_p=None, top_k=None,
        pad_token_id=model.generation_config.pad_token_id or 0,
    )  # fmt: skip
    return output[0, ids.shape[1] :]  # type: ignore[no-any-return]
