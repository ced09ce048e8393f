"""What is stored of the survivors' values: floats as they are, or codes of 8 or 4 bits with scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.roles import scale_dtype
from ..core.storage import expect
from .bits import pack_nibbles, unpack_nibbles

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CODES = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Values:
    """``kind``: the dtype that values are stored in. Codes have a 16-bit scale a row and ``group`` columns (0: a row).

    Floats: ``values [held]``. int8: ``values`` int8 ``[held]``; int4: uint8 ``[⌈held/2⌉]``, each code less −8 in four bits,
    the first in the lower ones; both with ``scales [rows groups]``. A weight is its scale times its code.
    """

    kind: str
    group: int = 0

    def __post_init__(self) -> None:
        if self.kind not in {**FLOATS, **CODES}:
            raise ValueError(f"values are {', '.join({**FLOATS, **CODES})}, not '{self.kind}'")
        if self.group < 0:
            raise ValueError(f"a group of {self.group} columns")

    @property
    def coded(self) -> bool:
        return self.kind in CODES

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return CODES[self.kind] if self.coded else 8 * FLOATS[self.kind].itemsize

    def groups(self, cols: int) -> int:
        """Scales of a row."""
        if not self.coded:
            return 0
        if cols % (self.group or cols):
            raise ValueError(f"{cols} columns do not divide into groups of {self.group}")
        return cols // (self.group or cols)

    def scale_bits(self, rows: int, cols: int) -> int:
        """Bits of all scales, by arithmetic."""
        return 16 * rows * self.groups(cols)

    def write(self, weight: Tensor, held: Tensor, scales: Tensor | None) -> dict[str, Tensor]:
        """The values of ``weight [rows cols]`` where ``held``; ``scales [rows groups]`` of codes."""
        if scales is None:
            return {"values": weight.to(FLOATS[self.kind])[held]}
        wide = scales.float().repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
        limit = 1 << self.bits - 1
        codes = (weight.float() / wide)[held].round_().clamp_(-limit, limit - 1).to(torch.int8)
        return {"values": codes if self.kind == "int8" else pack_nibbles(codes), "scales": scales.contiguous()}

    def codes(self, parts: Mapping[str, Tensor], held: int) -> Tensor:
        """The codes, int8 ``[held]``.

        Raises:
            ValueError: if they are not of the right kind or number.
        """
        if self.kind == "int8":
            return expect(parts, "values", torch.int8, (held,))
        return unpack_nibbles(expect(parts, "values", torch.uint8, (-(-held // 2),)), held)

    def scales(self, parts: Mapping[str, Tensor], rows: int, cols: int, stored: torch.dtype) -> Tensor:
        """The scales ``[rows groups]`` of codes.

        Raises:
            ValueError: if they are not of the right kind or number, or not positive numbers.
        """
        scales = expect(parts, "scales", scale_dtype(stored), (rows, self.groups(cols)))
        if not bool(torch.isfinite(scales).all()) or not bool((scales > 0).all()):
            raise ValueError("its scales are not all positive numbers")
        return scales

    def floats(self, parts: Mapping[str, Tensor], held: int) -> Tensor:
        """The values ``[held]`` of a float kind, as they are stored.

        Raises:
            ValueError: if they are not of the right kind or number.
        """
        return expect(parts, "values", FLOATS[self.kind], (held,))
