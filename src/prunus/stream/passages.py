"""Text that the dense model writes itself: many short passages, each sampled from one random token on.

What a model writes goes through everything that it knows, where a calibration text shows one field. Passages are written
together, a token a pass over the blocks, so that any model that can be streamed can write them; a token is drawn from the
few before it, so that a pass costs the same however long a passage has grown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.progress import Progress, Silent
from .evaluate import forwarded
from .sources import Source
from .trunk import Limits

LENGTH = 32
"""Tokens of a passage."""
CONTEXT = 4
"""Tokens that the next is drawn from; as many at a passage's start, which no text would put together, are left out."""


def own_count(samples: int, share: float) -> int:
    """How many of so many windows the model writes; one at least stays text."""
    return min(samples - 1, round(samples * share))


def written_through(tokens: int) -> int:
    """Tokens that go through the model while it writes so many."""
    return _passages(tokens) * sum(min(k, CONTEXT) for k in range(1, LENGTH))


def _passages(tokens: int) -> int:
    """Passages that hold so many tokens behind their starts."""
    return -(-tokens // (LENGTH - CONTEXT))


def with_own_windows(source: Source, windows: Tensor, count: int, ids: Tensor, seed: int, limits: Limits,
                     progress: Progress) -> Tensor:  # fmt: skip
    """``windows [samples seqlen]``, the last ``count`` of them made of passages in ``ids [ids]`` that the model writes."""
    tokens = count * windows.shape[1]
    passages = write(source, _passages(tokens), ids, seed, limits, progress)
    own = passages[:, CONTEXT:].flatten()[:tokens]
    return torch.cat([windows[: len(windows) - count], own.view(count, -1)])


def write(source: Source, count: int, ids: Tensor, seed: int, limits: Limits, progress: Progress) -> Tensor:
    """``[count LENGTH]`` tokens, the first drawn evenly from ``ids [ids]``, the others from the model at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    passages = ids[torch.randint(0, len(ids), (count, 1), generator=generator)]
    progress.start("Writing own passages", LENGTH - 1)
    with source.held(limits.budget):
        for _ in range(LENGTH - 1):
            read = passages[:, -CONTEXT:]
            passages = torch.cat([passages, _next(source, read, ids, generator, limits.batch_tokens)], dim=1)
            progress.step()
    return passages


def _next(source: Source, read: Tensor, ids: Tensor, generator: torch.Generator, batch_tokens: int) -> Tensor:
    """The token ``[count 1]`` behind each of ``read [count length]``, by inverse transform sampling."""
    drawn = torch.empty(len(read), 1, dtype=ids.dtype)
    with forwarded(source, read, batch_tokens, Silent(), "") as trunk:
        for place, logits in trunk.last_logits():
            heaps = logits[:, ids.to(logits.device)].softmax(dim=-1).cumsum_(dim=-1).cpu()
            chance = torch.rand(len(heaps), 1, generator=generator) * heaps[:, -1:]
            drawn[place] = ids[torch.searchsorted(heaps, chance).clamp_(max=len(ids) - 1)]
    return drawn
