"""How long a forward pass takes on this device, of shapes that need not exist: a block of each kind is built and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..stream.sources import CheckpointSource
from ..stream.trunk import Trunk
from .dry_run import filled, hidden_for, kinds_of
from .outline import Outline

_TURNS = 9


class LatencyMeter:
    """Times causal forward passes over one window of ``tokens`` tokens: all blocks that stay, and the head.

    Weights are random: what is timed does not depend on them, but for which experts tokens are sent to.
    """

    def __init__(self, source: CheckpointSource, tokens: int, vocabulary: int) -> None:
        self.source = source
        self.tokens = tokens
        self._trunk = Trunk(source, (torch.arange(tokens) % vocabulary).unsqueeze(0), tokens, 1 << 30, None)
        self._trunk.embed()
        self._trunk.require_plain([], "times are taken of one stack of blocks that hand on hidden states alone. Give "
                                      "another target.")  # fmt: skip

    @torch.no_grad()
    def seconds(self, outlines: Sequence[Outline]) -> list[float]:
        """Seconds a pass of each; they are timed in turns, medians are taken."""
        parts = [(k, times, call) for k, outline in enumerate(outlines) for times, call in self._parts(outline)]
        spent: list[list[float]] = [[] for _ in parts]
        for turn in range(_TURNS):
            for (_, _, call), times in zip(parts, spent, strict=True):
                start = perf_counter()
                call()
                if self.source.device.type == "cuda":
                    torch.cuda.synchronize(self.source.device)
                if turn:
                    times.append(perf_counter() - start)
        found = [0.0] * len(outlines)
        for (k, count, _), times in zip(parts, spent, strict=True):
            found[k] += count * median(times)
        return found

    def _parts(self, outline: Outline) -> list[tuple[int, Callable[[], object]]]:
        """What is timed of a shape, each with how often it runs."""
        model, device = outline.model, self.source.device
        hidden = torch.randn_like(hidden_for(model, self._trunk))
        parts: list[tuple[int, Callable[[], object]]] = []
        for indices in kinds_of(self.source, outline.prefixes):
            block = filled(model.get_submodule(outline.prefixes[self.source.prefix(indices[0])]), device, _random)
            parts.append((len(indices), partial(self._trunk.call(indices[0]).run, block, hidden)))
        head: Any = model.get_output_embeddings()
        if head is not None:
            weight = _random(head.weight.shape, dtype=hidden.dtype, device=device)
            parts.append((1, partial(torch.nn.functional.linear, hidden, weight)))
        return parts

    def close(self) -> None:
        """Drop the hidden states."""
        self._trunk.close()


def _random(shape: Sequence[int], **kind: Any) -> Tensor:
    return torch.randn(tuple(shape), **kind).mul_(0.02)
