"""Token windows through a Source, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import NumericalError
from ..core.finite import all_finite
from ..core.matmul import FastLinears
from ..models.calls import BlockCall, Recorder, same_call
from .sources import Source
from .state import State


class Limits(NamedTuple):
    """Tokens of one forward pass, and bytes of moments or of hidden states in memory."""

    batch_tokens: int
    budget: int


class Trunk:
    """Windows of token ids ``[windows seqlen]`` between the blocks of a model.

    Entering it embeds them; :meth:`advance` takes them through one block; :meth:`logits` ends at the head.
    """

    def __init__(self, source: Source, windows: Tensor, batch_tokens: int, budget: int, folder: Path | None) -> None:
        self.source = source
        self.windows = windows
        self.recorder = Recorder(list(source.blocks))
        size = max(1, batch_tokens // windows.shape[1])
        self.batches = [slice(k, min(k + size, len(windows))) for k in range(0, len(windows), size)]
        self.calls: list[list[BlockCall]] = []
        self._budget = budget
        self._folder = folder
        self.state: State

    @torch.no_grad()
    def embed(self) -> None:
        """Run the skeleton pass: embeddings into the state, every block's call recorded."""
        self.source.load_outside(head=False)
        trunk = self.source.model.base_model
        for number, batch in enumerate(self.batches):
            ids = self.windows[batch].to(self.source.device)
            hidden, calls = self.recorder.record(lambda ids=ids: trunk(input_ids=ids, use_cache=False))  # type: ignore[misc]
            if number == 0:
                shape = (len(self.windows), *hidden.shape[1:])
                self.state = State(shape, hidden.dtype, self._budget, self._folder)
            elif len(self.calls[0]) == len(calls):
                calls = [old if same_call(old, new) else new for old, new in zip(self.calls[0], calls, strict=True)]
            self.calls.append(calls)
            self.state.write(batch, hidden)
        self.state.advance()
        self.source.release_outside()

    def runs(self, block: nn.Module, index: int) -> Iterator[Callable[[], Tensor]]:
        """Calls that run the block on the present state, one for each batch of windows; they return its hidden states."""
        return (partial(self._run, block, index, number) for number in range(len(self.batches)))

    @torch.no_grad()
    def _run(self, block: nn.Module, index: int, number: int) -> Tensor:
        hidden = self.state.read(self.batches[number], self.source.device)
        with FastLinears():
            return self.calls[number][index].run(block, hidden)

    def advance(self, block: nn.Module, index: int) -> None:
        """Take the state through a loaded block.

        Raises:
            NumericalError: if hidden states become NaN or Inf.
        """
        for batch, run in zip(self.batches, self.runs(block, index), strict=True):
            hidden = run()
            if not all_finite(hidden):
                raise NumericalError(
                    f"{self.source.prefix(index)}: its hidden states became NaN or Inf. With float16 try --dtype float32."
                )
            self.state.write(batch, hidden)
        self.state.advance()

    def head_runs(self) -> Iterator[Callable[[], Tensor]]:
        """Calls that return logits ``[1 seqlen vocabulary]`` in fp32, one a window, once all blocks are behind."""
        self.source.load_outside(head=True)
        try:
            for k in range(len(self.windows)):
                yield partial(self._head, slice(k, k + 1))
        finally:
            self.source.release_outside()

    @torch.no_grad()
    def _head(self, window: slice) -> Tensor:
        model, ids = self.source.model, self.windows[window].to(self.source.device)
        hidden = self.state.read(window, self.source.device)
        with FastLinears():
            output = self.recorder.finish(lambda: model(input_ids=ids, use_cache=False), hidden)
        logits: Tensor = output.logits.float()
        return logits

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Each window's place and its logits ``[1 seqlen vocabulary]`` in fp32, once all blocks are behind."""
        for k, run in enumerate(self.head_runs()):
            yield slice(k, k + 1), run()

    def close(self) -> None:
        """Drop the state and its files."""
        self.state.close()
