"""Greedy decoding with a key/value cache, timed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
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


def drawing(temperature: float, top_p: float = 1.0, top_k: int = 0) -> dict[str, Any]:
    """How Transformers' ``generate`` is to choose tokens: the likeliest, or at a ``temperature`` above 0 drawn."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k or None}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@torch.inference_mode()
def continued(model: Any, ids: Tensor, new_tokens: int, streamer: Any = None) -> Tensor:
    """Exactly ``new_tokens`` likeliest tokens ``[batch new]`` after prompts ``ids [batch tokens]`` of one length by
    Transformers' own ``generate``, whatever cache the model has: as its user would run it."""
    output: Tensor = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens, streamer=streamer,
        pad_token_id=model.generation_config.pad_token_id or 0, **drawing(0.0),
    )  # fmt: skip
    return output[:, ids.shape[1] :]


def timed(model: Any, ids: Tensor, new_tokens: int) -> Decoded:
    """What :func:`continued` makes of one prompt ``ids [1 tokens]``, with the time that each token took."""
    clock = _Clock()
    new = continued(model, ids, new_tokens, clock)
    prefill, *steps = (after - before for before, after in pairwise(clock.times))
    return Decoded(new, prefill, steps)


class _Clock:
    """When ``generate`` had the prompt, and each token: they are handed over from the device's memory."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, ids: Tensor) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        """No token follows."""
