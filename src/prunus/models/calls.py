"""One block's call: what it is handed beside hidden states, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError


class Output(NamedTuple):
    """What a block gives: hidden states ``[windows seqlen width]``, and what else it returned."""

    hidden: Tensor
    extras: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Crossing:
    """Stands in a recorded call for the extra output ``index`` (from 1) of the block before: T5's position bias."""

    index: int


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block, its hidden states left out (they stand at ``args[0]`` or under ``keyword``).

    ``first_only``: the model's loop over its blocks takes the first of what a block returns, and of the rest only what
    stands as a :class:`Crossing` in the next call.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None
    first_only: bool = False

    def run(self, block: nn.Module, hidden: Tensor, extras: tuple[Any, ...] = ()) -> Output:
        """The block on ``hidden [windows seqlen width]``, with the ``extras`` of the block before.

        Raises:
            UnsupportedModelError: if the block hands more than that to the next one.
        """
        name = type(block).__name__
        args = tuple(_filled(value, extras, name) for value in self.args)
        kwargs = {key: _filled(value, extras, name) for key, value in self.kwargs.items()}
        if self.keyword is None:
            output = block(hidden, *args, **kwargs)
        else:
            output = block(*args, **{**kwargs, self.keyword: hidden})
        if isinstance(output, Tensor):
            return Output(output)
        if isinstance(output, tuple) and (self.first_only or all(extra is None for extra in output[1:])):
            return Output(output[0], tuple(output[1:]))
        raise UnsupportedModelError(
            f"{type(block).__name__} returns {_shape_of(output)}: prunus does not know what else crosses its blocks."
        )

    @property
    def takes_extras(self) -> bool:
        """Whether the block is handed extra outputs of the one before."""
        return any(isinstance(value, Crossing) for value in (*self.args, *self.kwargs.values()))

    @property
    def shares_state(self) -> bool:
        """Whether more than hidden states comes from the blocks before: then they all have to be run, in their order."""
        return self.takes_extras or any(is_shared_state(value) for value in (*self.args, *self.kwargs.values()))


def _filled(value: Any, extras: tuple[Any, ...], name: str) -> Any:
    if not isinstance(value, Crossing):
        return value
    if value.index > len(extras):
        raise UnsupportedModelError(
            f"{name} is handed output {value.index + 1} of the block before, which gives {len(extras) + 1}: "
            "prunus cannot follow what crosses its blocks."
        )
    return extras[value.index - 1]


def is_shared_state(value: Any) -> bool:
    """Whether this is the store through which blocks hand keys and values to later blocks (Gemma 4).

    It stays with the batch that it belongs to: every block that runs finds there what the blocks before it left.
    """
    from transformers import cache_utils

    return isinstance(value, getattr(cache_utils, "KVSharingDict", ()))


def same_call(one: BlockCall, other: BlockCall) -> bool:
    """Whether two calls have equal arguments."""
    return one.keyword == other.keyword and _same(one.args, other.args) and _same(one.kwargs, other.kwargs)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or is_shared_state(one):
        return one is other
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
