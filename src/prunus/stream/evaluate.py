"""Streamed evaluation: the logits of a model that need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


def divergences(dense: Source, others: Sequence[Source], windows: Tensor, batch_tokens: int, progress: Progress,
                tasks: Sequence[str]) -> tuple[Perplexity, list[tuple[Perplexity, Divergence]]]:  # fmt: skip
    """A model's perplexity, and of each of the ``others`` its own and how far it is from the first, over the same windows,
    all streamed; ``tasks`` are what a person is told of each model."""
    first, rest = Perplexity(), [(Perplexity(), Divergence()) for _ in others]
    with ExitStack() as stack:
        trunks = [stack.enter_context(forwarded(source, windows, batch_tokens, progress, task))
                  for source, task in zip((dense, *others), tasks, strict=True)]  # fmt: skip
        for (place, p), *found in zip(*(trunk.logits() for trunk in trunks), strict=True):
            first.add(p, windows[place])
            for (own, far), (_, q) in zip(rest, found, strict=True):
                own.add(q, windows[place])
                far.add(p, q)
    return first, rest
