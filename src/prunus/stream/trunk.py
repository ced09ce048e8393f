"""Token windows through a Source, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import NumericalError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.matmul import FastLinears
from ..core.site import Site
from ..models.calls import BlockCall, Output, same_call
from ..models.recorder import Recorder
from ..models.skeleton import model_inputs
from .sources import Source
from .state import State

_LAST = 64
"""Windows whose last positions go through the head together."""


class Limits(NamedTuple):
    """Tokens of one forward pass, and bytes in memory of moments, of hidden states, or of a model that is held there."""

    batch_tokens: int
    budget: int


class Trunk:
    """Windows of token ids ``[windows seqlen]`` between the blocks of a model.

    :meth:`embed` enters it, :meth:`advance` goes through one block, :meth:`logits` ends at the head. ``name`` sets its
    files in ``folder`` apart from those of another.
    """

    def __init__(self, source: Source, windows: Tensor, batch_tokens: int, budget: int, folder: Path | None,
                 name: str = "spill") -> None:  # fmt: skip
        self.source = source
        self.windows = windows
        size = max(1, batch_tokens // windows.shape[1])
        self.batches = [slice(k, min(k + size, len(windows))) for k in range(0, len(windows), size)]
        self.calls: list[list[BlockCall]] = []
        self._extras: list[tuple[Any, ...]] = []
        self._next_extras: list[tuple[Any, ...]] = []
        self._budget = budget
        self._folder = folder
        self._name = name
        self._stack = 0
        self._first = 0
        self.recorder = Recorder(list(source.stacks[0].blocks))
        self.state: State

    @torch.no_grad()
    def embed(self) -> None:
        """Run the skeleton pass: embeddings into the state, every block's call recorded."""
        self._enter(None)

    def _enter(self, before: State | None) -> None:
        """Begin the present stack; ``before`` is the state behind the stack that ran earlier."""
        self.source.load_outside(head=False)
        model = self.source.model
        trunk = model if before is not None or len(self.source.stacks) > 1 else model.base_model
        self.calls, self._extras, self._next_extras = [], [()] * len(self.batches), [()] * len(self.batches)
        for number, batch in enumerate(self.batches):
            inputs = model_inputs(model, self.windows[batch].to(self.source.device))
            encoded = before.read(batch, self.source.device) if before is not None else None
            to_end = number == 0 and len(self.source.stacks) == 1
            hidden, calls = self.recorder.record(partial(trunk, **inputs), encoded, to_end)
            if number == 0:
                shape = (len(self.windows), *hidden.shape[1:])
                self.state = State(shape, hidden.dtype, self._budget, self._folder, f"{self._name}-{self._stack}")
            elif len(self.calls[0]) == len(calls):
                calls = [old if same_call(old, new) else new for old, new in zip(self.calls[0], calls, strict=True)]
            self.calls.append(calls)
            self.state.write(batch, hidden)
        self.state.advance()
        self.source.release_outside()

    def _next_stack(self) -> None:
        """Go from behind one stack to the start of the next, which reads what the first gave."""
        behind, stacks = self.state, self.source.stacks
        self._first += len(stacks[self._stack].blocks)
        self._stack += 1
        self.recorder = Recorder(list(stacks[self._stack].blocks), self.recorder)
        self._enter(behind)
        behind.close()

    @property
    def shares_state(self) -> bool:
        """Whether blocks hand each other more than hidden states."""
        return any(call.shares_state for call in self.calls[0])

    def require_plain(self, sites: Sequence[Site], advice: str) -> None:
        """Raise UnsupportedModelError unless all Sites are in one stack of blocks that hand on hidden states alone."""
        outside = [site.name for site in sites if site.block is None]
        if outside or self.shares_state or len(self.source.stacks) > 1:
            raise UnsupportedModelError(f"{outside[0] if outside else type(self.source.model).__name__}: {advice}")

    def call(self, index: int, number: int = 0) -> BlockCall:
        """How a block is called for a batch of windows; the state is taken on to its stack first."""
        if index == self._first + len(self.recorder.blocks):
            self._next_stack()
        return self.calls[number][index - self._first]

    def runs(self, block: nn.Module, index: int) -> Iterator[Callable[[], Output]]:
        """Calls that run the block on the present state, one for each batch of windows."""
        return (partial(self._run, block, index, number) for number in range(len(self.batches)))

    @torch.no_grad()
    def _run(self, block: nn.Module, index: int, number: int) -> Output:
        return self.run(block, index, number)

    def run(self, block: nn.Module, index: int, number: int, hidden: Tensor | None = None) -> Output:
        """The block on one batch of the present state, or on other ``hidden`` states; gradients flow where enabled."""
        call = self.call(index, number)
        entering = self.state.read(self.batches[number], self.source.device) if hidden is None else hidden
        with FastLinears():
            return call.run(block, entering, self._extras[number])

    def advance(self, block: nn.Module, index: int) -> None:
        """Take the state through a loaded block.

        Raises:
            NumericalError: if hidden states become NaN or Inf.
        """
        for step in self.steps(block, index):
            step()
        self.turn()

    def steps(self, block: nn.Module, index: int) -> Iterator[Callable[[], None]]:
        """Calls that take one batch of windows each through a loaded block; what they give counts from :meth:`turn` on."""
        return (partial(self._step, block, index, number) for number in range(len(self.batches)))

    def turn(self) -> None:
        """Make what the last :meth:`steps` gave the present state."""
        self.state.advance()
        self._extras = list(self._next_extras)

    def _step(self, block: nn.Module, index: int, number: int) -> None:
        output = self._run(block, index, number)
        following = index - self._first + 1
        if not all_finite(output.hidden):
            raise NumericalError(
                f"{self.source.prefix(index)}: its hidden states became NaN or Inf. With float16 try --dtype float32."
            )
        self.state.write(self.batches[number], output.hidden)
        wanted = following < len(self.calls[number]) and self.calls[number][following].takes_extras
        self._next_extras[number] = output.extras if wanted else ()

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
        return self.head(window, self.state.read(window, self.source.device))

    def head(self, window: slice, hidden: Tensor) -> Tensor:
        """Logits in fp32 of ``hidden`` states behind the last block, the head loaded; gradients flow where enabled."""
        return self._logits(self.windows[window], hidden)

    def dense_head(self, window: slice, hidden: Tensor) -> Tensor:
        """The same of the dense model, whose logits must be finite.

        Raises:
            NumericalError: if they hold NaN or Inf.
        """
        logits = self.head(window, hidden)
        if not all_finite(logits.detach()):
            raise NumericalError("the dense model's logits are NaN or Inf. With float16 try --dtype float32.")
        return logits

    def _logits(self, ids: Tensor, hidden: Tensor) -> Tensor:
        inputs = model_inputs(self.source.model, ids.to(self.source.device))
        with FastLinears():
            output = self.recorder.finish(partial(self.source.model, **inputs), hidden)
        logits: Tensor = output.logits.float()
        return logits

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Each window's place and its logits ``[1 seqlen vocabulary]`` in fp32, once all blocks are behind."""
        for k, run in enumerate(self.head_runs()):
            yield slice(k, k + 1), run()

    @torch.no_grad()
    def last_logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Some windows' places and, in fp32, the logits ``[windows vocabulary]`` of their last positions."""
        self.source.load_outside(head=True)
        for k in range(0, len(self.windows), _LAST):
            place = slice(k, min(k + _LAST, len(self.windows)))
            last = self.state.read(place, self.source.device)[:, -1:]
            yield place, self._logits(self.windows[place, -1:], last)[:, -1]
        self.source.release_outside()

    def close(self) -> None:
        """Drop the state and its files."""
        self.state.close()
