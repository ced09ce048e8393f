"""Token windows through a Source, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import NumericalError
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

    @torch.no_grad()
    def outputs(self, block: nn.Module, index: int) -> Iterator[tuple[slice, Tensor]]:
        """The block's hidden states out of the present state, a batch of windows at a time."""
        for number, batch in enumerate(self.batches):
            hidden = self.state.read(batch, self.source.device)
            yield batch, self.calls[number][index].run(block, hidden)

    def advance(self, block: nn.Module, index: int) -> None:
        """Take the state through a loaded block.

        Raises:
            NumericalError: if hidden states become NaN or Inf.
        """
        for batch, hidden in self.outputs(block, index):
            if not torch.isfinite(hidden).all():
                raise NumericalError(
                    f"{self.source.prefix(index)}: its hidden states became NaN or Inf. With float16 try --dtype float32."
                )
            self.state.write(batch, hidden)
        self.state.advance()

    @torch.no_grad()
    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Logits ``[windows seqlen vocabulary]`` in fp32, a window at a time, once all blocks are behind."""
        self.source.load_outside(head=True)
        model = self.source.model
        for batch in self.batches:
            for k in range(batch.start, batch.stop):
                one = slice(k, k + 1)
                ids = self.windows[one].to(self.source.device)
                hidden = self.state.read(one, self.source.device)
                output = self.recorder.finish(lambda ids=ids: model(input_ids=ids, use_cache=False), hidden)  # type: ignore[misc]
                yield one, output.logits.float()
        self.source.release_outside()

    def close(self) -> None:
        """Drop the state and its files."""
        self.state.close()
