"""A weight as it is packed: a storage format for where its survivors stand, what is kept of their values, and a coder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..coders.fixed import Fixed
from ..core import registry
from ..core.coder import CHUNK, Coder
from ..core.finite import all_finite
from ..core.registry import Role
from ..core.roles import scale_dtype
from ..core.storage import StorageFormat, expect
from ..quant.integer import Integer
from .bits import pack_bits, unpack_bits
from .chunks import in_chunks, places_of
from .dense import Dense
from .nm import NMStorage
from .values import CODES, FLOATS, Values

_GROUPS = ((2, 4), (1, 4), (4, 8), (2, 8), (1, 2))
"""N:M that are looked for in a mask."""
_MOST_A_BYTE = (1 << 16) // 4
"""Weights that a byte can stand for: columns of nothing but zeros, at 32 bits a row. Files that claim more are not real."""


@dataclass(frozen=True)
class PackedWeight:
    """A matrix ``[rows cols]`` in ``parts``: plain tensors, named by what they are.

    ``dtype`` is what it unpacks to, ``count`` how many values are stored. Zeros that were dropped may have been negative:
    then ``minus`` uint8 holds a bit for each of them, in order, set for −0.0, so that a float weight unpacks to the same
    bytes. Of codes they come back as 0.0.
    """

    rows: int
    cols: int
    dtype: torch.dtype
    storage: StorageFormat
    values: Values
    coder: Coder
    count: int
    parts: dict[str, Tensor]

    @classmethod
    def of(cls, weight: Tensor, storage: StorageFormat, values: Values, scales: Tensor | None = None,
           coder: Coder | None = None) -> PackedWeight:  # fmt: skip
        """Pack ``weight [rows cols]``; ``scales [rows groups]`` of codes are found where none are given.

        Raises:
            ValueError: if its zeros do not fit the format, its columns the groups, or its values their kind.
        """
        (rows, cols), coder = weight.shape, coder or Fixed()
        keep = weight != 0
        storage = storage.fitted(keep, values.bits, coder.planned_bits)
        fault = storage.fault(keep)
        if fault:
            raise ValueError(fault)
        held = storage.holds(keep)
        if values.coded and not all_finite(weight):
            raise ValueError("it holds NaN or Inf, which no code stands for")
        if values.scaled and scales is None:
            scales = _fitted(weight, values)
        parts = {**_positions(storage, held, coder), **values.write(weight, held, scales, coder)}
        if not values.coded and bool(parts["values"].isinf().sum() > weight.isinf().sum()):
            raise ValueError(f"it holds values up to {float(weight.abs().max()):.3g}, too large for {values.kind}")
        if not values.coded and not isinstance(storage, Dense):
            minus = (weight.signbit() & ~held)[~held]
            if bool(minus.any()):
                parts["minus"] = pack_bits(minus.unsqueeze(0))[0]
        parts = {name: part.contiguous() for name, part in parts.items()}
        _check_size(rows, cols, parts)
        return cls(rows, cols, weight.dtype, storage, values, coder, int(torch.count_nonzero(held)), parts)

    @classmethod
    def from_parts(cls, about: Mapping[str, Any], parts: dict[str, Tensor]) -> PackedWeight:
        """What :meth:`about` and the parts say. What is in the parts is checked where it is read.

        Raises:
            ValueError: if they do not belong together, or are none of prunus's.
        """
        try:
            rows, cols = (int(extent) for extent in about["shape"])
            count = int(about["stored"])
            dtype = FLOATS[about["dtype"]]
            values = Values(about["values"]["kind"], int(about["values"]["group"]))
            storage = _made(registry.storage, about)
            coder = _made(registry.coder, about)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its description is incomplete or wrong ({error})") from error
        _check_size(rows, cols, parts)
        if not 0 <= count <= rows * cols:
            raise ValueError(f"{count} values are said to be stored of {rows}×{cols} weights")
        positions = coder.parts(storage.symbols) if storage.symbols else storage.parts
        strange = parts.keys() - {*positions, *values.parts(coder)}
        if strange:
            raise ValueError(f"it has parts of no use: {', '.join(sorted(strange))}")
        return cls(rows, cols, dtype, storage, values, coder, count, parts)

    def about(self) -> dict[str, Any]:
        """What the parts are, for JSON."""
        return {
            "shape": [self.rows, self.cols],
            "dtype": str(self.dtype).removeprefix("torch."),
            "storage": registry.storage.describe(self.storage),
            "values": {"kind": self.values.kind, "group": self.values.group},
            "coder": registry.coder.describe(self.coder),
            "stored": self.count,
        }

    @cached_property
    def held(self) -> Tensor:
        """The mask ``[rows cols]`` of what values are stored of.

        Raises:
            ValueError: if the positions are damaged.
        """
        held = self.storage.read({**self.parts, **self._gaps()}, self.rows, self.cols)
        found = int(torch.count_nonzero(held))  # a sum would make eight bytes of each first
        if found != self.count:
            raise ValueError(f"{self.count} values are said to be stored, and it has positions of {found}")
        return held

    @cached_property
    def codes(self) -> Tensor:
        """All codes, int8; of a codebook uint8."""
        return torch.cat([torch.empty(0, dtype=torch.uint8 if self.values.shared else torch.int8), *self._codes()])

    @property
    def scales(self) -> Tensor:
        return self.values.scales(self.parts, self.rows, self.cols, self.dtype)

    @property
    def floats(self) -> Tensor:
        """The values of a float kind as they are stored; of a codebook those that the codes number, in fp32."""
        if self.values.shared:
            return self.values.codebook(self.parts)[self.codes.long()]
        return self.values.floats(self.parts, self.count)

    def check(self) -> None:
        """Look at all that the parts hold.

        Raises:
            ValueError: if anything of it cannot be.
        """
        self.held, self.codes if self.values.coded else self.floats  # noqa: B018 - they check what they read
        if self.values.scaled:
            self.scales  # noqa: B018

    def unpack(self) -> Tensor:
        """The weight ``[rows cols]``; of a float kind that is the stored dtype, bit for bit what was packed.

        Symbols are decoded and put into their places some at a time: beside the weight, and for storage formats other than
        gaps a mask, that takes some tens of megabytes, whatever its size.

        Raises:
            ValueError: if the parts are damaged.
        """
        flat = torch.zeros(self.rows * self.cols, dtype=torch.float32 if self.values.scaled else self.dtype)
        for places, values in zip(self._places(), self._numbers(), strict=True):
            flat[places] = values.to(flat.dtype)
        weight = flat.view(self.rows, self.cols)
        if self.values.scaled:
            weight.unflatten(1, (self.scales.shape[1], -1)).mul_(self.scales.float().unsqueeze(-1))
            return weight.to(self.dtype)
        if "minus" in self.parts:
            dropped = self.rows * self.cols - self.count
            bits = expect(self.parts, "minus", torch.uint8, (-(-dropped // 8),)).unsqueeze(0)
            signs = torch.zeros(dropped, dtype=self.dtype)
            signs[unpack_bits(bits, dropped)[0]] = -0.0
            weight[~self.held] = signs
        return weight

    @property
    def nbytes(self) -> int:
        """Bytes of the parts."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def planned_bytes(self) -> float:
        """What it should take by arithmetic: positions, values, scales or codebook; symbols by how often each occurs."""
        return self.planned_bytes_by(self.coder)

    def planned_bytes_by(self, coder: Coder) -> float:
        """The same if its symbols went through another coder."""
        values = coder.planned_bits(self.code_counts) if self.values.coded else self.values.bits * self.count
        codebook = 32 * self.values.codebook(self.parts).numel() if self.values.shared else 0
        return (self.position_bits(coder) + values + codebook + self.values.scale_bits(self.rows, self.cols)) / 8

    def position_bits(self, coder: Coder) -> float:
        """Bits that positions take by arithmetic, gaps with a coder."""
        if self.storage.symbols:
            return coder.planned_bits(self.gap_counts)
        return self.storage.position_bits(self.rows, self.cols, self.count)

    @cached_property
    def gap_counts(self) -> Tensor:
        """How often each gap occurs ``[2^bits]``, of a format that writes gaps."""
        bits = self.storage.symbol_bits
        return _counts(self._symbols(self.storage.symbols, bits), bits)

    @cached_property
    def code_counts(self) -> Tensor:
        """How often each code occurs ``[2^bits]``, negative ones behind the others."""
        found = _counts((codes.view(torch.uint8) for codes in self._codes()), 8)
        return found.view(-1, 1 << self.values.bits).sum(0)

    def _symbols(self, name: str, bits: int) -> Iterator[Tensor]:
        return self.coder.read(name, self.parts, self.count, bits)

    def _gaps(self) -> dict[str, Tensor]:
        """The symbols of the positions, all of them."""
        name = self.storage.symbols
        symbols = self._symbols(name, self.storage.symbol_bits) if name else ()
        return {name: torch.cat([torch.empty(0, dtype=torch.uint8), *symbols])} if name else {}

    def _codes(self) -> Iterator[Tensor]:
        """The codes, :data:`CHUNK` at a time; decoded once more, unless all of them are there."""
        if "codes" in self.__dict__:
            return iter(self.codes.split(CHUNK) if self.count else ())
        return self.values.codes(self.parts, self.count, self.coder)

    def _places(self) -> Iterator[Tensor]:
        """Where the values stand in the matrix row after row, :data:`CHUNK` at a time."""
        if self.storage.symbols and "held" not in self.__dict__:
            symbols = self._symbols(self.storage.symbols, self.storage.symbol_bits)
            return self.storage.places(symbols, self.rows, self.cols)
        return in_chunks(places_of(self.held), CHUNK)

    def _numbers(self) -> Iterator[Tensor]:
        """The values, or the codes that are to be scaled, :data:`CHUNK` at a time."""
        if not self.values.coded:
            yield from self.floats.split(CHUNK) if self.count else ()
        elif self.values.scaled:
            yield from self._codes()
        else:
            codebook = self.values.codebook(self.parts)
            for codes in self._codes():
                yield codebook[codes.long()]


def smallest_storage(weight: Tensor, values: Values, coder: Coder | None = None) -> StorageFormat:
    """The format that takes the fewest bytes for ``weight [rows cols]``; N:M may take 2% more, being faster.

    Formats of symbols, which no kernel reads, are left out where weights are to be run as they are packed: where values are
    not shared and the coder is none but the fixed one.
    """
    keep, (rows, cols) = weight != 0, weight.shape
    kept, coder = int(torch.count_nonzero(keep)), coder or Fixed()
    running = isinstance(coder, Fixed) and not values.shared
    sizes: list[tuple[float, int, StorageFormat]] = []
    for entry in registry.storage.entries().values():
        if entry.cls is NMStorage or (running and entry.cls.symbols):
            continue
        storage = entry.cls().fitted(keep, values.bits, coder.planned_bits)
        if storage.fault(keep) is None:
            held = storage.holds(keep)
            sizes.append((_position_bits(storage, held, coder) + int(torch.count_nonzero(held)) * values.bits, 1, storage))
    for n, m in _GROUPS:
        pairs = NMStorage(n, m)
        stored = rows * cols * n // m
        if kept <= stored and pairs.fault(keep) is None:
            sizes.append((0.98 * (pairs.position_bits(rows, cols, stored) + stored * values.bits), 0, pairs))
    return min(sizes, key=lambda size: size[:2])[2]


def _fitted(weight: Tensor, values: Values) -> Tensor:
    """Scales ``[rows groups]`` of codes: of those tried, the ones of the least squared error."""
    groups = values.groups(weight.shape[1])
    grid = Integer(bits=CODES[values.kind], group=values.group)
    levels = grid.fit(weight.float().unflatten(1, (groups, -1)), torch.ones(1, 1, 1), weight.dtype)
    return levels.scale[..., 0].to(scale_dtype(weight.dtype))


def _made(axis: registry.Registry[Role], about: Mapping[str, Any]) -> Role:
    """The member of an axis that a description names."""
    return axis.make(about[axis.axis]["name"], {k: v for k, v in about[axis.axis].items() if k != "name"})


def _positions(storage: StorageFormat, held: Tensor, coder: Coder) -> dict[str, Tensor]:
    """The positions of ``held [rows cols]``, symbols by the coder."""
    parts = storage.write(held)
    return parts if not storage.symbols else coder.write(storage.symbols, parts[storage.symbols], storage.symbol_bits)


def _position_bits(storage: StorageFormat, held: Tensor, coder: Coder) -> float:
    """Bits that they take, by arithmetic."""
    if not storage.symbols:
        return storage.position_bits(held.shape[0], held.shape[1], int(torch.count_nonzero(held)))
    return coder.planned_bits(_counts([storage.write(held)[storage.symbols]], storage.symbol_bits))


def _counts(symbols: Iterable[Tensor], bits: int) -> Tensor:
    """How often each symbol of so many bits occurs ``[2^bits]``."""
    found = torch.zeros(1 << bits, dtype=torch.int64)
    for some in symbols:
        found += torch.bincount(some, minlength=1 << bits)
    return found


def _check_size(rows: int, cols: int, parts: Mapping[str, Tensor]) -> None:
    """Raise ValueError if so few bytes cannot be a matrix of this shape."""
    held_bytes = sum(part.nbytes for part in parts.values())
    if rows < 1 or cols < 1 or rows * cols > (1 + held_bytes) * _MOST_A_BYTE:
        raise ValueError(f"its shape is said to be {rows}×{cols}, and it has {held_bytes} bytes")
