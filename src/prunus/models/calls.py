"""Running a model block by block: what every block is called with, and what comes after the last one.

A skeleton pass with identity blocks records each block's own arguments (models choose masks and rotary embeddings by
layer) without knowing their architecture; a second kind of pass puts given hidden states behind the last block, so
that the model's own final norm and head finish the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block, its hidden states left out (they stand at ``args[0]`` or under ``keyword``).

    ``first_only``: the model's loop over its blocks takes the first of what a block returns and nothing else.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None
    first_only: bool = False

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's hidden states out of ``hidden [windows seqlen width]``.

        Raises:
            UnsupportedModelError: if the block hands more than hidden states to the next one.
        """
        if self.keyword is None:
            output = block(hidden, *self.args, **self.kwargs)
        else:
            output = block(*self.args, **{**self.kwargs, self.keyword: hidden})
        if isinstance(output, Tensor):
            return output
        if isinstance(output, tuple) and (self.first_only or all(extra is None for extra in output[1:])):
            return output[0]  # type: ignore[no-any-return]
        raise UnsupportedModelError(
            f"{type(block).__name__} returns {_shape_of(output)}: prunus does not know what else crosses its blocks."
        )


class Recorder:
    """Records every block's call during a skeleton pass over ``blocks``."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = blocks
        self.wraps = False
        """Whether the model unpacks a block's output as a tuple; found by trying."""

    @torch.no_grad()
    def record(self, run: Callable[[], Any]) -> tuple[Tensor, list[BlockCall]]:
        """Hidden states entering the first block and every block's call, from ``run()`` of the model's trunk."""
        try:
            return self._attempt(run)
        except _MisreadError:
            self.wraps = not self.wraps
        try:
            return self._attempt(run)
        except _MisreadError as error:
            raise UnsupportedModelError(f"{type(self.blocks[0]).__name__}: {error}") from error

    def _attempt(self, run: Callable[[], Any]) -> tuple[Tensor, list[BlockCall]]:
        entering: list[Tensor] = []
        calls: list[BlockCall] = []

        def replacement(*args: Any, **kwargs: Any) -> Any:
            keyword = None if args else "hidden_states"
            hidden = args[0] if args else kwargs.pop("hidden_states", None)
            if not isinstance(hidden, Tensor) or (entering and hidden.shape != entering[0].shape):
                raise _MisreadError("its hidden states cannot be followed from block to block")
            entering.append(hidden)
            known = {key: _checked(value) for key, value in kwargs.items()}
            calls.append(BlockCall(_checked(args[1:]), known, keyword, self.wraps))
            return (hidden,) if self.wraps else hidden

        with _replaced(self.blocks, replacement):
            try:
                run()
            except torch.OutOfMemoryError:
                raise
            except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
                if not entering:
                    raise
                raise _MisreadError(f"the model's loop over its blocks cannot be followed ({error})") from error
        if len(calls) != len(self.blocks):
            raise _MisreadError(f"{len(calls)} of {len(self.blocks)} blocks were run, or some twice")
        return entering[0], calls

    @torch.no_grad()
    def finish(self, run: Callable[[], Any], hidden: Tensor) -> Any:
        """What ``run()`` of the whole model gives with ``hidden`` behind the last block."""

        def replacement(*args: Any, **kwargs: Any) -> Any:
            return (hidden,) if self.wraps else hidden

        with _replaced(self.blocks, replacement):
            return run()


class _MisreadError(Exception):
    """The guess how the model unpacks its blocks' outputs was wrong."""


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
    """Arguments that are plain values or tensors; anything with a state of its own is not understood."""
    if value is None or isinstance(value, (bool, int, float, str, Tensor, torch.dtype)):
        return value
    if isinstance(value, tuple):
        return tuple(_checked(item) for item in value)
    raise UnsupportedModelError(f"blocks are handed a {type(value).__name__}: prunus does not know what it carries.")


def same_call(one: BlockCall, other: BlockCall) -> bool:
    """Whether two calls have equal arguments."""
    return one.keyword == other.keyword and _same(one.args, other.args) and _same(one.kwargs, other.kwargs)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one is other or (one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other)))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _shape_of(output: Any) -> str:
    if isinstance(output, tuple):
        return f"a tuple of {', '.join(type(item).__name__ for item in output)}"
    return f"a {type(output).__name__}"
