"""Streamed evaluation: the logits of a model that need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.progress import Progress
from ..measure.quality import Divergence, Perplexity
from .heap import reused_memory
from .scratch import passing_folder
from .sources import CheckpointSource, Source
from .trunk import Trunk

STATE_BUDGET = 2 << 30


@contextmanager
def forwarded(source: Source, windows: Tensor, batch_tokens: int, progress: Progress, task: str) -> Iterator[Trunk]:
    """A Trunk with ``windows [windows seqlen]`` behind the last block of ``source``, ready for :meth:`Trunk.logits`."""
    with passing_folder() as folder, reused_memory():
        trunk = Trunk(source, windows, batch_tokens, STATE_BUDGET, folder)
        trunk.embed()
        progress.start(task, len(source.blocks))
        for index in range(len(source.blocks)):
            block = source.load(index)
            source.expect(index + 1)
            trunk.advance(block, index)
            source.release(index)
            progress.step()
        try:
            yield trunk
        finally:
            trunk.close()


def perplexity(source: Source, windows: Tensor, batch_tokens: int, progress: Progress, task: str) -> Perplexity:
    """Perplexity over ``windows [windows seqlen]``."""
    result = Perplexity()
    with forwarded(source, windows, batch_tokens, progress, task) as trunk:
        for place, logits in trunk.logits():
            result.add(logits, windows[place])
    return result


def open_source(
    folder: Path, dtype: torch.dtype, device: torch.device, trust_remote_code: bool = False
) -> CheckpointSource:
    """A checkpoint folder as a Source to evaluate."""
    return CheckpointSource(Checkpoint.open(folder), dtype, device, trust_remote_code=trust_remote_code)


def divergence(dense: Source, pruned: Source, windows: Tensor, batch_tokens: int, progress: Progress) -> tuple[
    Perplexity, Perplexity, Divergence
]:  # fmt: skip
    """Perplexities of two models and their divergence, over the same windows, both streamed."""
    result = (Perplexity(), Perplexity(), Divergence())
    with (
        forwarded(dense, windows, batch_tokens, progress, "Dense model") as one,
        forwarded(pruned, windows, batch_tokens, progress, "Pruned model") as two,
    ):
        for (place, p), (_, q) in zip(one.logits(), two.logits(), strict=True):
            result[0].add(p, windows[place])
            result[1].add(q, windows[place])
            result[2].add(p, q)
    return result
