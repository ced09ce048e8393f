"""Greedy decoding with a key/value cache, timed."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """New tokens ``ids [batch new]``, the seconds that the prompt took, and those of each step after it."""

    ids: Tensor
    prefill_seconds: float
    step_seconds: list[float]


@torch.inference_mode()
def decode(model: Any, ids: Tensor, new_tokens: int) -> Decoded:
    """The likeliest ``new_tokens`` after prompts ``ids [batch tokens]`` of one length."""
    start = perf_counter()
    output = model(ids, use_cache=True, logits_to_keep=1)
    following = [output.logits[:, -1].argmax(-1, keepdim=True)]
    prefill, steps = perf_counter() - start, []
    for _ in range(new_tokens - 1):
        start = perf_counter()
        output = model(following[-1], past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        following.append(output.logits[:, -1].argmax(-1, keepdim=True))
        steps.append(perf_counter() - start)
    return Decoded(torch.cat(following, dim=1), prefill, steps)
