"""Axes: which couplings a number of the config governs, found by changing the number and looking at the shapes.

A checkpoint loads only where its config says its shapes. So what is cut is what one number says for all blocks: the model
is built from a changed config, without weights, and a coupling belongs to the number if its places, and no others, shrink.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..models.numbers import HEAD_SIZE, HEADS, LAYERS, WIDTH, Shapes, key_value_heads, number, numbers, own_name
from ..models.numbers import shapes as shapes_of
from .coupling import Coupling, Place
from .follow import STREAM, Followed

_NEVER = ("vocab", "token", "max_position", "layers", "positions", "seq", "top_k", "per_tok")
"""Parts of names of numbers that say something else than a width of blocks."""


@dataclass(frozen=True)
class Axis:
    """Couplings that a number of the config governs, each with ``size`` units or a multiple of them.

    ``scaled`` are the numbers that go with it, each so many times its size; ``pinned`` those that would follow it and have
    to stay. Of ``groups`` of consecutive units the same number stays of each.
    """

    name: str
    size: int
    couplings: tuple[Coupling, ...]
    scaled: Mapping[str, float]
    pinned: Mapping[str, int] = field(default_factory=dict)
    groups: int = 1

    def config(self, size: int) -> dict[str, int]:
        """What the config says with ``size`` units left."""
        return {**self.pinned, **self.scaled_to(size)}

    def scaled_to(self, size: int) -> dict[str, int]:
        """The numbers that go with the axis, with ``size`` units left."""
        return {name: round(times * size) for name, times in self.scaled.items()}

    def units(self, coupling: Coupling, size: int) -> int:
        """How many of a coupling's units stay with ``size`` of the axis left."""
        return coupling.units * size // self.size

    @property
    def number(self) -> str:
        """The config's name of the number."""
        return next(iter(self.scaled))


@dataclass(frozen=True)
class Anatomy:
    """The axes along which a model can be cut, and what cannot be, with the reasons."""

    axes: Mapping[str, Axis]
    left: Mapping[str, str]


Delta = dict[tuple[str, int], tuple[int, int]]
"""Dimensions that change, each with its size before and after."""


class Finder:
    """Finds the axes of a model from its config and what was followed."""

    def __init__(self, config: Any, dtype: torch.dtype, followed: Followed, trust_remote_code: bool = False) -> None:
        self.config = config
        self.followed = followed
        self._build = (dtype, trust_remote_code)
        base = shapes_of(config, {}, *self._build)
        if base is None:
            raise AssertionError("the model was built from this config before")
        self.base: Shapes = base
        self.couplings = [coupling for block in followed.blocks for coupling in block]
        self.head_dim = number(config, HEAD_SIZE)

    def anatomy(self) -> Anatomy:
        """Everything that can be found."""
        axes: dict[str, Axis] = {}
        taken: set[int] = set()
        for search in (self._attention(), self._by_number(taken), self._left_open(taken)):
            for axis in search:
                axes.setdefault(axis.name, axis)
                taken |= {id(coupling) for coupling in axis.couplings}
        width = self._width()
        if width is not None:
            axes[width.name] = width
        return Anatomy(axes, self._left(axes))

    def delta(self, changes: Mapping[str, Any]) -> Delta | None:
        """Dimensions that other numbers change; None if no such model can be built, or has other tensors."""
        new = shapes_of(self.config, changes, *self._build)
        if new is None or new.keys() != self.base.keys():
            return None
        return {
            (name, dim): (old, new[name][dim])
            for name, shape in self.base.items()
            for dim, old in enumerate(shape)
            if len(new[name]) == len(shape) and new[name][dim] != old
        }

    def _explained(self, delta: Delta | None, share: float, among: Sequence[Coupling]) -> tuple[Coupling, ...] | None:
        """The couplings that, cut to a ``share`` of their units, change just these dimensions; None if that cannot be."""
        if not delta:
            return None
        touched = [one for one in among if any((place.tensor, place.dim) in delta for place in one.members)]
        gone: dict[Place, int] = defaultdict(int)
        for coupling in touched:
            stays = coupling.units * share
            if abs(stays - round(stays)) > 1e-9:
                return None
            for place, positions in coupling.members.items():
                gone[place] += (coupling.units - round(stays)) * positions.shape[1]
        found = {(place.tensor, place.dim) for place in gone}
        right = all(
            (key := (place.tensor, place.dim)) in delta and delta[key][0] - delta[key][1] == count
            for place, count in gone.items()
        )
        return tuple(touched) if right and found == set(delta) else None

    def _attention(self) -> Iterator[Axis]:
        """Query heads within their key/value group, and whole groups."""
        heads, shared = number(self.config, HEADS), key_value_heads(self.config)
        if heads is None:
            return
        groups = number(self.config, shared) if shared is not None else heads
        groups = groups if groups is not None else heads
        ratio = heads // groups
        for pinned in self._pins():
            if groups > 1:
                fewer = _fewer(groups)
                scaled: dict[str, float] = {shared: 1.0} if shared is not None else {}
                scaled[HEADS] = float(ratio)
                delta = self.delta({**pinned, **{name: round(k * fewer) for name, k in scaled.items()}})
                found = self._explained(delta, fewer / groups, self.couplings)
                if found:
                    yield Axis("kv_groups" if ratio > 1 else "heads", groups, found, scaled, pinned)
                if found and ratio > 1:
                    inner = self._inside_groups(found, groups, ratio, pinned)
                    if inner is not None:
                        yield inner
                if found:
                    return
            else:
                delta = self.delta({**pinned, HEADS: _fewer(heads)})
                found = self._explained(delta, _fewer(heads) / heads, self.couplings)
                if found:
                    yield Axis("heads", heads, found, {HEADS: 1.0}, pinned)
                    return

    def _inside_groups(self, whole: Sequence[Coupling], groups: int, ratio: int, pinned: Mapping[str, int]) -> Axis | None:
        """Heads as units of their own: of every place that follows their number the part that each has of its group."""
        fewer = _fewer(ratio)
        delta = self.delta({**pinned, HEADS: groups * fewer})
        if not delta:
            return None
        found = []
        for coupling in whole:
            members = {}
            for place, positions in coupling.members.items():
                old, new = delta.get((place.tensor, place.dim), (0, 0))
                each = (old - new) // (groups * (ratio - fewer))
                if each:
                    members[place] = positions[:, : ratio * each].reshape(groups * ratio, each)
            found.append(Coupling(members, coupling.averaged))
        if self._explained(delta, fewer / ratio, found) is None:
            return None
        return Axis("heads", groups * ratio, tuple(found), {HEADS: 1.0}, pinned, groups)

    def _pins(self) -> Iterator[dict[str, int]]:
        """The size of a head is said as it is, where the config can say it; else it would follow width and heads."""
        yield {}
        heads, width = number(self.config, HEADS), number(self.config, WIDTH)
        if heads and width:
            yield {HEAD_SIZE: self.head_dim or width // heads}

    def _by_number(self, taken: set[int]) -> Iterator[Axis]:
        """Feed-forward neurons, experts and whatever else has a number of its own."""
        special = {own_name(self.config, name) for name in (HEADS, WIDTH, LAYERS, HEAD_SIZE)}
        special |= {name for name in (key_value_heads(self.config),) if name is not None}
        for name, value in numbers(self.config).items():
            if value is None or name in special or any(word in name for word in _NEVER):
                continue
            fewer = _fewer(value)
            delta = self.delta({name: fewer})
            free = [coupling for coupling in self.couplings if id(coupling) not in taken]
            found = self._explained(delta, fewer / value, free)
            if found:
                yield Axis(_name(name, found), value, found, {name: 1.0})
            elif delta and (experts := self._experts(delta, value, fewer)):
                groups = number(self.config, "n_group") or 1
                yield Axis("experts", value, experts, {name: 1.0}, groups=groups if value % groups == 0 else 1)

    def _experts(self, delta: Delta, value: int, fewer: int) -> tuple[Coupling, ...]:
        """A coupling for each block whose stacks of experts, routers and biases all have this number of entries."""
        if any(change != (value, fewer) for change in delta.values()):
            return ()
        stacks = [name for (name, dim) in delta if dim == 0 and len(self.base[name]) == 3]
        by_block: dict[str, dict[Place, torch.Tensor]] = defaultdict(dict)
        for name, dim in delta:
            by_block[_home(name)][Place(name, dim)] = torch.arange(value).unsqueeze(1)
        whole = all(any(Place(stack, 0) in members for stack in stacks) for members in by_block.values())
        return tuple(Coupling(members, experts=True) for members in by_block.values()) if whole else ()

    def _left_open(self, taken: set[int]) -> Iterator[Axis]:
        """Numbers that the config leaves open (GPT-2's ``n_inner``) and that can be said."""
        for name, value in numbers(self.config).items():
            if value is not None or any(word in name for word in _NEVER):
                continue
            for units in sorted({one.units for one in self.couplings if id(one) not in taken}, reverse=True):
                if self.delta({name: units}) != {}:
                    continue
                fewer = _fewer(units)
                free = [coupling for coupling in self.couplings if id(coupling) not in taken]
                found = self._explained(self.delta({name: fewer}), fewer / units, free)
                if found:
                    yield Axis(_name(name, found), units, found, {name: 1.0})
                    break

    def _width(self) -> Axis | None:
        """The residual stream's width, alone or, where a head's size follows it, with as many heads less."""
        stream, width = self.followed.stream, number(self.config, WIDTH)
        if stream is None or width is None:
            return None
        heads = number(self.config, HEADS)
        open_numbers = self._pinned_open()
        for pinned in self._pins():
            for fewer in {_fewer(width), width - (width // heads if heads else 0)}:
                kept = {**open_numbers, **pinned}
                if self._explained(self.delta({**kept, WIDTH: fewer}), fewer / width, [stream]):
                    return Axis("width", width, (stream,), {WIDTH: 1.0}, kept)
        if heads is None or width % heads:
            return None
        shared = key_value_heads(self.config)
        groups = number(self.config, shared) if shared is not None else None
        scaled = {WIDTH: 1.0, HEADS: heads / width}
        if shared is not None and groups is not None and groups > 1:
            scaled[shared] = groups / width
        less = width - width // (groups if groups is not None and groups > 1 else heads)
        for kept in (open_numbers, {}):
            sizes = {name: round(times * less) for name, times in scaled.items()}
            found = self._explained(self.delta({**kept, **sizes}), less / width, [stream, *self.couplings])
            if found:
                return Axis("width", width, found, scaled, kept)
        return None

    def _pinned_open(self) -> dict[str, int]:
        """What is left open and would follow the width, said as it is: a feed-forward of four times the width."""
        pinned = {}
        sizes = {one.units for one in self.couplings}
        for name, value in numbers(self.config).items():
            if value is None and not any(word in name for word in _NEVER):
                for units in sizes:
                    changed = self.delta({name: units})
                    if changed == {} and self.delta({name: _fewer(units)}):
                        pinned[name] = units
        return pinned

    def _left(self, axes: Mapping[str, Axis]) -> dict[str, str]:
        """Everything along which nothing can be cut, and why."""
        inside = {place for axis in axes.values() for one in axis.couplings for place in one.members}
        left: dict[str, str] = {}
        for coupling in self.couplings:
            if not set(coupling.members) & inside:
                reason = f"{coupling.units} units, but no number of the config is for them alone"
                left |= {str(place): reason for place in coupling.members}
        if self.followed.stream is not None and "width" not in axes:
            left[str(STREAM)] = "the config has no number that changes its width alone"
        for place, reason in self.followed.fixed.items():
            if place not in inside:
                left[str(place)] = reason
        return left


def _fewer(value: int) -> int:
    """Some smaller number that divides what the number divides, as far as that can be told."""
    smallest = next((k for k in range(2, value + 1) if value % k == 0), value)
    return max(1, value - value // smallest)


def _home(name: str) -> str:
    """The path of the block that a parameter is in, up to its first number."""
    words = name.split(".")
    at = next((k for k, word in enumerate(words) if word.isdigit()), 0)
    return ".".join(words[: at + 1])


def _name(number_name: str, couplings: Sequence[Coupling]) -> str:
    """Feed-forward neurons are called so; what a norm averages over, or another number governs, has the config's name."""
    if any(coupling.averaged for coupling in couplings):
        return number_name
    usual = any(word in number_name for word in ("intermediate", "ffn", "inner"))
    special = any(word in number_name for word in ("moe", "shared", "mlp"))
    return "neurons" if usual and not special else number_name
