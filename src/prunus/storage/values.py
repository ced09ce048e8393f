"""What is stored of the survivors' values: floats as they are, codes with scales, or codes of values that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..coders.fixed import Fixed
from ..core.coder import CHUNK, Coder
from ..core.roles import scale_dtype
from ..core.storage import expect
from .codebook import nearest, shared_values

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CODES = {"int8": 8, "int4": 4}
SHARED = {f"shared{bits}": bits for bits in range(2, 9)}


@dataclass(frozen=True)
class Values:
    """``kind``: the dtype that values are stored in. Codes have a 16-bit scale a row and ``group`` columns (0: a row).

    Floats: ``values [held]``. All other kinds are a stream of symbols, ``values``, for a coder. int8: codes as they are in
    eight bits; int4: codes less −8 in four; both with ``scales [rows groups]``: a weight is its scale times its code.
    shared2 … shared8: a weight is the value of the ``codebook``, fp32 ``[≤ 2^bits]``, that its code numbers.
    """

    kind: str
    group: int = 0

    def __post_init__(self) -> None:
        if self.kind not in {**FLOATS, **CODES, **SHARED}:
            raise ValueError(f"values are {', '.join({**FLOATS, **CODES, **SHARED})}, not '{self.kind}'")
        if self.group < 0:
            raise ValueError(f"a group of {self.group} columns")

    @property
    def coded(self) -> bool:
        """Whether values are codes, which scales or a codebook turn into weights."""
        return self.kind not in FLOATS

    @property
    def scaled(self) -> bool:
        """Whether these are codes with scales."""
        return self.kind in CODES

    @property
    def shared(self) -> bool:
        """Whether these are codes of a codebook."""
        return self.kind in SHARED

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return {**CODES, **SHARED}[self.kind] if self.coded else 8 * FLOATS[self.kind].itemsize

    def parts(self, coder: Coder) -> set[str]:
        """Names of the tensors that these values take, or may take."""
        if not self.coded:
            return {"values", "minus"}
        return {*coder.parts("values"), "scales" if self.scaled else "codebook"}

    def groups(self, cols: int) -> int:
        """Scales of a row."""
        if not self.scaled:
            return 0
        if cols % (self.group or cols):
            raise ValueError(f"{cols} columns do not divide into groups of {self.group}")
        return cols // (self.group or cols)

    def scale_bits(self, rows: int, cols: int) -> int:
        """Bits of all scales, by arithmetic."""
        return 16 * rows * self.groups(cols)

    def write(self, weight: Tensor, held: Tensor, scales: Tensor | None, coder: Coder) -> dict[str, Tensor]:
        """The values of ``weight [rows cols]`` where ``held``; ``scales [rows groups]`` of codes."""
        if self.shared:
            symbols, codebook = self._share(weight[held])
            return {**coder.write("values", symbols, self.bits), "codebook": codebook}
        if scales is None:
            return {"values": weight.to(FLOATS[self.kind])[held]}
        wide = scales.float().repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
        limit = 1 << self.bits - 1
        codes = (weight.float() / wide)[held].round_().clamp_(-limit, limit - 1).to(torch.int8)
        symbols = codes.view(torch.uint8) if self.kind == "int8" else (codes + 8).view(torch.uint8)
        parts = coder.write("values", symbols, self.bits)
        if self._plain(coder):
            parts["values"] = parts["values"].view(torch.int8)
        return {**parts, "scales": scales.contiguous()}

    def _share(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Codes uint8 ``[held]`` and the codebook, rising; zero is in it only where zeros are stored."""
        zeros = values == 0
        some = bool(zeros.any())
        survivors = values[~zeros] if some else values
        found = shared_values(survivors, (1 << self.bits) - some)
        codebook = torch.cat([found, found.new_zeros(1)]).unique() if some else found
        codes = torch.empty(len(values), dtype=torch.uint8)
        if some:
            codes[zeros] = int(torch.searchsorted(codebook, 0.0))
        codes[~zeros] = torch.searchsorted(codebook, found).to(torch.uint8)[nearest(survivors, found).long()]
        return codes, codebook.float()

    def _plain(self, coder: Coder) -> bool:
        """Whether codes are kept one a byte, which safetensors has a signed dtype for."""
        return self.kind == "int8" and isinstance(coder, Fixed)

    def codes(self, parts: Mapping[str, Tensor], held: int, coder: Coder) -> Iterator[Tensor]:
        """The codes, some at a time: int8 of those with scales, uint8 of those of a codebook.

        Raises:
            ValueError: if they are not of the right kind or number.
        """
        if self._plain(coder):
            codes = expect(parts, "values", torch.int8, (held,))
            yield from codes.split(CHUNK) if held else ()
            return
        most = len(self.codebook(parts)) if self.shared else 0
        for symbols in coder.read("values", parts, held, self.bits):
            if self.shared and int(symbols.max()) >= most:
                raise ValueError(f"its codes go up to {int(symbols.max())}, and its codebook has {most} values")
            yield symbols if self.shared else symbols.view(torch.int8) - (8 if self.kind == "int4" else 0)

    def codebook(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The values that are shared, fp32.

        Raises:
            ValueError: if they are too many, or no rising numbers.
        """
        count = parts["codebook"].numel() if "codebook" in parts else 0
        codebook = expect(parts, "codebook", torch.float32, (min(count, 1 << self.bits),))
        if not bool(torch.isfinite(codebook).all()) or not bool((codebook.diff() > 0).all()):
            raise ValueError("its codebook is no list of rising numbers")
        return codebook

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
