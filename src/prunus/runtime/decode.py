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
    start = _now(ids)
    output = model(ids, use_cache=True, logits_to_keep=1)
    following = [output.logits[:, -1].argmax(-1, keepdim=True)]
    prefill, steps = _now(ids) - start, []
    for _ in range(new_tokens - 1):
        start = _now(ids)
        output = model(following[-1], past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        following.append(output.logits[:, -1].argmax(-1, keepdim=True))
        steps.append(_now(ids) - start)
    return Decoded(torch.cat(following, dim=1), prefill, steps)


def drawing(temperature: float, top_p: float = 1.0, top_k: int = 0) -> dict[str, Any]:
    """How Transformers' ``generate`` is to choose tokens: the likeliest, or at a ``temperature`` above 0 drawn."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k or None}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def _now(ids: Tensor) -> float:
    """The time at which all that was asked of the device is done."""
    if ids.is_cuda:
        torch.cuda.synchronize(ids.device)
    return perf_counter()
