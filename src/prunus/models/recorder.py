"""Running a model block by block: what every block is called with, and what comes after the last one.

A skeleton pass with identity blocks records each block's own arguments (models choose masks and rotary embeddings by
layer) without knowing their architecture; a second kind of pass puts given hidden states behind the last block, so
that the model's own final norm and head finish the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from .calls import BlockCall, Crossing, is_shared_state

_MOST_OUTPUTS = 4
"""Values that a model's loop may unpack from a block's output."""


class Recorder:
    """Records every block's call during a skeleton pass over one stack of ``blocks``.

    ``before`` is that of the stack that runs earlier (a decoder's encoder), of which ``record`` is told the result.
    """

    def __init__(self, blocks: Sequence[nn.Module], before: Recorder | None = None) -> None:
        self.blocks = blocks
        self.before = before
        self.width = 0
        """How many values the model unpacks from a block's output; 0 where it takes a tensor. Found by trying."""

    @torch.no_grad()
    def record(self, run: Callable[[], Any], before: Tensor | None = None, to_end: bool = False,
               ) -> tuple[Tensor, list[BlockCall]]:  # fmt: skip
        """Hidden states entering the first block and every block's call, from ``run()`` of the model's trunk.

        ``before`` are the hidden states behind the stack that runs earlier. ``to_end``: run on behind the last block, to
        see that none is called again.

        Raises:
            UnsupportedModelError: if hidden states do not go through every block once, one after the other, unchanged
                in between.
        """
        failures = []
        for width in (self.width, *(other for other in range(_MOST_OUTPUTS + 1) if other != self.width)):
            self.width = width
            try:
                return self._attempt(run, before, to_end)
            except _MisreadError as error:
                failures.append(error)
        furthest = max(failures, key=lambda failure: failure.reached)
        raise UnsupportedModelError(f"{type(self.blocks[0]).__name__}: {furthest}") from furthest

    def _attempt(self, run: Callable[[], Any], before: Tensor | None, to_end: bool) -> tuple[Tensor, list[BlockCall]]:
        tape = _Tape(len(self.blocks), self.width > 0, self._output, to_end)
        with _replaced(self.blocks, tape), self._finished_before(before):
            try:
                run()
            except _RecordedError:
                pass
            except _CalledAgainError:
                raise UnsupportedModelError(
                    f"{type(self.blocks[0]).__name__}: the model calls its blocks ({len(self.blocks)}) more than once. "
                    "Calibration follows hidden states through every block once; --method magnitude needs none."
                ) from None
            except torch.OutOfMemoryError:
                raise
            except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
                if tape.entering is None:
                    raise
                if not tape.complete:
                    why = f"the model's loop over its blocks cannot be followed ({error})"
                    raise _MisreadError(why, len(tape.calls)) from error
        if tape.entering is None or not tape.complete:
            raise _MisreadError(f"{len(tape.calls)} of {len(self.blocks)} blocks were run", len(tape.calls))
        return tape.entering, tape.calls

    def finish(self, run: Callable[[], Any], hidden: Tensor) -> Any:
        """What ``run()`` of the whole model gives with ``hidden`` behind the last block."""
        with self._finished_before(None), self.giving(hidden):
            return run()

    def _finished_before(self, hidden: Tensor | None) -> AbstractContextManager[None]:
        return self.before.giving(hidden) if self.before is not None else nullcontext()

    @contextmanager
    def giving(self, hidden: Tensor | None) -> Iterator[None]:
        """Within this context every block gives ``hidden``, or what it was handed."""

        def replacement(*args: Any, **kwargs: Any) -> Any:
            given = hidden if hidden is not None else args[0] if args else kwargs["hidden_states"]
            return self._output(given)

        with _replaced(self.blocks, replacement):
            yield

    def _output(self, hidden: Tensor) -> Any:
        """A block's output in the form that the model unpacks."""
        if not self.width:
            return hidden
        return _Outputs((hidden, *(Crossing(k) for k in range(1, self.width))))


class _Tape:
    """Stands in for the ``count`` blocks of a stack, and notes how each is called; what they give is ``output(hidden)``.

    Ends the run at the last call, unless it is ``to_end``: then at one more.
    """

    def __init__(self, count: int, first_only: bool, output: Callable[[Tensor], Any], to_end: bool) -> None:
        self.entering: Tensor | None = None
        self.calls: list[BlockCall] = []
        self._memory: tuple[Any, ...] = ()
        self._count, self._first_only, self._output, self._to_end = count, first_only, output, to_end

    @property
    def complete(self) -> bool:
        """Whether every block's call is noted."""
        return len(self.calls) == self._count

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.complete:
            raise _CalledAgainError
        keyword = None if args else "hidden_states"
        hidden = args[0] if args else kwargs.pop("hidden_states", None)
        if not isinstance(hidden, Tensor):
            raise _MisreadError("its hidden states cannot be followed from block to block", len(self.calls))
        if self.entering is None:
            self.entering, self._memory = hidden.clone() if self._to_end else hidden, _memory(hidden)
        elif _memory(hidden) != self._memory:
            raise _MisreadError("the model changes hidden states between its blocks", len(self.calls))
        known = {key: _checked(value) for key, value in kwargs.items()}
        self.calls.append(BlockCall(_checked(args[1:]), known, keyword, self._first_only))
        if self.complete and not self._to_end:
            raise _RecordedError
        return self._output(hidden)


class _Outputs(tuple[Any, ...]):
    """What a block returns in a skeleton pass: hidden states, and a :class:`Crossing` for whatever else is asked for."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index > 0:
            return Crossing(index)
        return super().__getitem__(index)


class _RecordedError(Exception):
    """The last block's call is recorded: what the model does with its output does not matter."""


class _CalledAgainError(Exception):
    """A block is called once all calls are recorded."""


class _MisreadError(Exception):
    """The guess how the model unpacks its blocks' outputs was wrong; it showed after ``reached`` blocks."""

    def __init__(self, reason: str, reached: int) -> None:
        super().__init__(reason)
        self.reached = reached


@contextmanager
def _replaced(blocks: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Every block keeps its attributes, but runs ``forward``."""
    previous = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, own in zip(blocks, previous, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own


def _checked(value: Any) -> Any:
    """Arguments that are plain values, tensors or shared keys and values; no other state of its own is understood."""
    plain = (bool, int, float, str, Tensor, torch.dtype, Crossing)
    if value is None or isinstance(value, plain) or is_shared_state(value):
        return value
    if isinstance(value, tuple):
        return tuple(_checked(item) for item in value)
    if type(value) is dict and value:  # an empty one may be there to be filled by a block
        return {key: _checked(item) for key, item in value.items()}
    raise UnsupportedModelError(f"blocks are handed a {type(value).__name__}: prunus does not know what it carries.")


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common that are the same memory, not written to in between."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version
