"""A weight as it is packed: a storage format for where its survivors stand, and what is kept of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core import registry
from ..core.roles import scale_dtype
from ..core.storage import StorageFormat, expect
from ..quant.integer import Integer
from .bits import pack_bits, unpack_bits
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

    ``dtype`` is what it unpacks to. Zeros that were dropped may have been negative: then ``minus`` uint8 holds a bit for
    each of them, in order, set for −0.0, so that a float weight unpacks to the same bytes.
    """

    rows: int
    cols: int
    dtype: torch.dtype
    storage: StorageFormat
    values: Values
    parts: dict[str, Tensor]

    @classmethod
    def of(cls, weight: Tensor, storage: StorageFormat, values: Values, scales: Tensor | None = None) -> PackedWeight:
        """Pack ``weight [rows cols]``; ``scales [rows groups]`` of codes are found where none are given.

        Raises:
            ValueError: if its zeros do not fit the format, its columns the groups, or its values their kind.
        """
        rows, cols = weight.shape
        keep = weight != 0
        fault = storage.fault(keep)
        if fault:
            raise ValueError(fault)
        held = storage.holds(keep)
        if values.coded and not bool(torch.isfinite(weight).all()):
            raise ValueError("it holds NaN or Inf, which no code stands for")
        if values.coded and scales is None:
            scales = _fitted(weight, values)
        parts = {**storage.write(held), **values.write(weight, held, scales)}
        if not values.coded and bool(parts["values"].isinf().sum() > weight.isinf().sum()):
            raise ValueError(f"it holds values up to {float(weight.abs().max()):.3g}, too large for {values.kind}")
        if not values.coded and not isinstance(storage, Dense):
            minus = (weight.signbit() & ~held)[~held]
            if bool(minus.any()):
                parts["minus"] = pack_bits(minus.unsqueeze(0))[0]
        return cls(rows, cols, weight.dtype, storage, values, {name: part.contiguous() for name, part in parts.items()})

    @classmethod
    def from_parts(cls, about: Mapping[str, Any], parts: dict[str, Tensor]) -> PackedWeight:
        """What :meth:`about` and the parts say; nothing of it is trusted.

        Raises:
            ValueError: if they do not belong together, or are none of prunus's.
        """
        try:
            rows, cols = (int(extent) for extent in about["shape"])
            dtype = FLOATS[about["dtype"]]
            storage = registry.storage.make(
                about["storage"]["name"], {k: v for k, v in about["storage"].items() if k != "name"}
            )
            values = Values(about["values"]["kind"], int(about["values"]["group"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its description is incomplete or wrong ({error})") from error
        held_bytes = sum(part.nbytes for part in parts.values())
        if rows < 1 or cols < 1 or rows * cols > held_bytes * _MOST_A_BYTE:
            raise ValueError(f"its shape is said to be {rows}×{cols}, and it has {held_bytes} bytes")
        strange = parts.keys() - {*storage.parts, "values", *(["scales"] if values.coded else ["minus"])}
        if strange:
            raise ValueError(f"it has parts of no use: {', '.join(sorted(strange))}")
        found = cls(rows, cols, dtype, storage, values, parts)
        if values.coded:
            found.codes, found.scales  # noqa: B018 - both check what they read
        else:
            found.floats  # noqa: B018
        return found

    def about(self) -> dict[str, Any]:
        """What the parts are, for JSON."""
        return {
            "shape": [self.rows, self.cols],
            "dtype": str(self.dtype).removeprefix("torch."),
            "storage": registry.storage.describe(self.storage),
            "values": {"kind": self.values.kind, "group": self.values.group},
        }

    @cached_property
    def held(self) -> Tensor:
        """The mask ``[rows cols]`` of what values are stored of.

        Raises:
            ValueError: if the positions are damaged.
        """
        return self.storage.read(self.parts, self.rows, self.cols)

    @cached_property
    def count(self) -> int:
        """Values stored."""
        return int(self.held.sum())

    @property
    def codes(self) -> Tensor:
        return self.values.codes(self.parts, self.count)

    @property
    def scales(self) -> Tensor:
        return self.values.scales(self.parts, self.rows, self.cols, self.dtype)

    @property
    def floats(self) -> Tensor:
        return self.values.floats(self.parts, self.count)

    def unpack(self) -> Tensor:
        """The weight ``[rows cols]``; of a float kind that is the stored dtype, bit for bit what was packed."""
        if self.values.coded:
            weight = torch.zeros(self.rows, self.cols)
            weight[self.held] = self.codes.float()
            weight *= self.scales.float().repeat_interleave(self.cols // self.scales.shape[1], dim=1)
            return weight.to(self.dtype)
        weight = torch.zeros(self.rows, self.cols, dtype=self.dtype)
        weight[self.held] = self.floats.to(self.dtype)
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
        """What it should take by arithmetic: positions, values and scales."""
        bits = self.storage.position_bits(self.rows, self.cols, self.count) + self.values.bits * self.count
        return (bits + self.values.scale_bits(self.rows, self.cols)) / 8


def smallest_storage(weight: Tensor, values: Values) -> StorageFormat:
    """The format that takes the fewest bytes for ``weight [rows cols]``; N:M may take 2% more, being faster."""
    keep, (rows, cols) = weight != 0, weight.shape
    kept = int(keep.sum())
    formats = (entry.cls() for name, entry in registry.storage.entries().items() if name != "nm")
    sizes: list[tuple[float, int, StorageFormat]] = [
        (storage.position_bits(rows, cols, held) + held * values.bits, 1, storage)
        for storage in formats
        for held in (rows * cols if isinstance(storage, Dense) else kept,)
        if storage.fault(keep) is None
    ]
    for n, m in _GROUPS:
        pairs = NMStorage(n, m)
        held = rows * cols * n // m
        if kept <= held and pairs.fault(keep) is None:
            sizes.append((0.98 * (pairs.position_bits(rows, cols, held) + held * values.bits), 0, pairs))
    return min(sizes, key=lambda size: size[:2])[2]


def _fitted(weight: Tensor, values: Values) -> Tensor:
    """Scales ``[rows groups]`` of codes: of those tried, the ones of the least squared error."""
    groups = values.groups(weight.shape[1])
    grid = Integer(bits=CODES[values.kind], group=values.group)
    levels = grid.fit(weight.float().unflatten(1, (groups, -1)), torch.ones(1, 1, 1), weight.dtype)
    return levels.scale[..., 0].to(scale_dtype(weight.dtype))
