"""Packed weights in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..storage.bits import pack_bits
from ..storage.columns import Columns
from ..storage.dense import Dense
from ..storage.nm import NMStorage
from ..storage.packed import PackedWeight
from .library import CMatrix, Kernels

BLOCK = 64
_LANES = 16
"""Blocks that kernels take side by side where values have 4 bits."""
_PADDING = 64
"""Bytes that kernels may read beyond the end of an array."""

LAYOUTS = (
    "bitmask float32", "bitmask bfloat16", "bitmask int8", "2:4 int8", "2:4 int4", "dense bfloat16", "dense int8",
    "dense int4", "columns float32", "columns bfloat16", "by column float32", "by column bfloat16", "by column int8",
)  # fmt: skip
"""By their number in prunus.h."""


@dataclass(frozen=True)
class Arranged:
    """A matrix as prunus.h describes it; the tensors' bytes are what a product reads.

    ``mask`` int64 ``[rows blocks]``, ``starts`` int64 ``[rows + 1]``, ``scales`` ``[rows groups]`` in
    the 16 bits of the checkpoint; all with some bytes more at the end.
    """

    layout: str
    rows: int
    cols: int
    group: int
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def coded(self) -> bool:
        """Whether weights are whole numbers with scales."""
        return "scales" in self.tensors

    @cached_property
    def matrix(self) -> CMatrix:
        """For the library; valid as long as this object is."""
        places = {name: tensor.data_ptr() for name, tensor in self.tensors.items()}
        brain = self.coded and self.tensors["scales"].dtype is torch.bfloat16
        return CMatrix(
            layout=LAYOUTS.index(self.layout), group=self.group, rows=self.rows, cols=self.cols,
            brain_scales=brain, **places,
        )  # fmt: skip


def arrange(packed: PackedWeight) -> Arranged | None:
    """A packed weight for the kernels; None where they have none for it (fp16 values, groups of odd sizes).

    fp16 values become fp32, int4 ones that are in no dense or 2:4 order int8: the same numbers, in more bytes. So do shared
    values, bf16 where the weights were.
    """
    values, storage = packed.values, packed.storage
    rows, cols, held = packed.rows, packed.cols, packed.held
    if values.scaled:
        return _arranged_codes(packed)
    narrow = values.kind == "bfloat16" or (values.shared and packed.dtype is torch.bfloat16)
    floats = packed.floats.to(torch.bfloat16 if narrow else torch.float32)
    kind = str(floats.dtype).removeprefix("torch.")
    if isinstance(storage, Dense):
        if kind != "bfloat16":
            return None
        wide = torch.nn.functional.pad(floats.view(rows, cols), (0, -cols % BLOCK))
        return Arranged("dense bfloat16", rows, cols, 0, {"values": _padded(wide)})
    starts = {"values": _padded(floats), "starts": _starts(held)}
    if isinstance(storage, Columns):
        columns = torch.from_numpy(held.nonzero()[:, 1].numpy().astype(np.uint16).view(np.int16))
        return Arranged(f"columns {kind}", rows, cols, 0, starts | {"columns": _padded(columns)})
    return Arranged(f"bitmask {kind}", rows, cols, 0, starts | {"mask": _words(held)})


def _arranged_codes(packed: PackedWeight) -> Arranged | None:
    values, rows, cols, held = packed.values, packed.rows, packed.cols, packed.held
    group = 0 if values.group >= cols else values.group
    if group % BLOCK:
        return None
    pairs = packed.storage == NMStorage(2, 4)
    wide = torch.zeros(rows, cols, dtype=torch.int8)
    wide[held] = packed.codes
    if values.kind == "int4" and (pairs or isinstance(packed.storage, Dense)):
        return _in_lanes(wide, held if pairs else None, packed.scales)
    used = wide.view(rows, packed.scales.shape[1], -1).any(-1)
    scales = {"scales": _padded(packed.scales * used)}  # biased sums of nothing but zeros come to zero
    if isinstance(packed.storage, Dense):
        return Arranged("dense int8", rows, cols, group, {"values": _padded(_whole_blocks(wide))} | scales)
    if pairs:
        codes = torch.nn.functional.pad(wide[held].view(rows, -1), (0, -(cols // 2) % (BLOCK // 2)))
        return Arranged("2:4 int8", rows, cols, group, {"values": _padded(codes), "mask": _words(held)} | scales)
    tensors = {"values": _padded(wide[held]), "mask": _words(held), "starts": _starts(held)} | scales
    return Arranged("bitmask int8", rows, cols, group, tensors)


def _in_lanes(codes: Tensor, held: Tensor | None, scales: Tensor) -> Arranged:
    """4-bit codes ``[rows cols]``, of which 2:4 ones are ``held``, for the kernels that take sixteen blocks side by side.

    Every block has a scale, whatever columns share one.
    """
    rows, cols = codes.shape
    width = cols // scales.shape[1]
    of_blocks = torch.arange(0, cols, BLOCK) // width
    whole = _whole_blocks(codes)
    used = whole.view(rows, -1, BLOCK).any(-1)
    tensors = {"scales": _padded(scales[:, of_blocks] * used)}  # biased sums of nothing but zeros come to zero
    codes = _laned(whole)
    if held is None:
        return Arranged("dense int4", rows, cols, BLOCK, {"values": _padded(_woven(codes, BLOCK))} | tensors)
    held = _laned(_whole_blocks(held, pairs=True))
    values = {"values": _padded(_woven(codes[held].view(rows, -1), BLOCK // 2)), "mask": _words(held)}
    return Arranged("2:4 int4", rows, cols, BLOCK, values | tensors)


def densified(arranged: Arranged, kernels: Kernels) -> Arranged | None:
    """The same codes with their zeros, for the dense kernel of their width; None where values are floats."""
    kind = arranged.layout.split()[1]
    if not kind.startswith("int"):
        return None
    rows, cols, scales = arranged.rows, arranged.cols, arranged.tensors["scales"]
    ones = torch.ones_like(scales)
    plain = Arranged(arranged.layout, rows, cols, arranged.group, {**arranged.tensors, "scales": ones})
    codes = kernels.decode(plain.matrix, 0, rows).to(torch.int8)  # with scales of one, codes are what comes out
    codes = _whole_blocks(codes)
    values = _padded(codes if kind == "int8" else _woven(_laned(codes), BLOCK))
    return Arranged(f"dense {kind}", rows, cols, arranged.group, {"values": values, "scales": scales})


def by_column(weight: Tensor, scales: Tensor | None = None) -> Arranged:
    """A dense matrix column after column, for :meth:`~prunus.runtime.library.Kernels.skip`: ``weight [rows cols]`` in fp32
    or bf16, or int8 codes with ``scales [rows]`` in 16 bits. ``values`` are ``[cols rows]``, rows padded to blocks.
    """
    (rows, cols), kind = weight.shape, str(weight.dtype).removeprefix("torch.")
    values = torch.zeros(cols, -(-rows // BLOCK) * BLOCK, dtype=weight.dtype)
    values[:, :rows].copy_(weight.T)
    tensors = {"values": _padded(values)} | ({} if scales is None else {"scales": _padded(scales)})
    return Arranged(f"by column {kind}", rows, cols, 0, tensors)


def dense_by_column(arranged: Arranged) -> Arranged | None:
    """The same dense matrix by column; None where it has zeros left out, 4-bit codes, or scales for parts of a row."""
    values, width = arranged.tensors["values"], -(-arranged.cols // BLOCK) * BLOCK
    if arranged.layout not in ("dense bfloat16", "dense int8") or arranged.group:
        return None
    plain = values[: arranged.rows * width].view(arranged.rows, width)[:, : arranged.cols]
    return by_column(plain, arranged.tensors["scales"][: arranged.rows] if arranged.coded else None)


def _whole_blocks(matrix: Tensor, pairs: bool = False) -> Tensor:
    """The matrix ``[rows cols]`` with columns of zeros up to a whole block; a mask may be given two more of every four."""
    rows, cols = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -cols % BLOCK))
    if pairs:
        padded.view(rows, -1, 4)[:, cols // 4 :, :2] = True
    return padded


def _laned(matrix: Tensor) -> Tensor:
    """``[rows blocks·64]`` in the kernels' order: of every sixteen blocks four columns each, then the next four."""
    rows, whole = len(matrix), matrix.shape[1] // (BLOCK * _LANES) * BLOCK * _LANES
    lanes = matrix[:, :whole].view(rows, -1, _LANES, BLOCK // 4, 4).transpose(2, 3).reshape(rows, whole)
    return torch.cat((lanes, matrix[:, whole:]), dim=1)


def _padded(tensor: Tensor) -> Tensor:
    """All of the tensor in one row, with some bytes more behind it."""
    out = torch.zeros(tensor.numel() + _PADDING // tensor.itemsize, dtype=tensor.dtype)
    out[: tensor.numel()].copy_(tensor.flatten())
    return out


def _words(held: Tensor) -> Tensor:
    """Bits of a mask ``[rows cols]``, 64 columns a word."""
    return _padded(pack_bits(torch.nn.functional.pad(held, (0, -held.shape[1] % BLOCK))))


def _starts(held: Tensor) -> Tensor:
    return torch.nn.functional.pad(held.sum(1, dtype=torch.int64).cumsum(0), (1, 0))


def _woven(codes: Tensor, per_block: int) -> Tensor:
    """4-bit codes ``[rows n]``: of every two blocks the first in the low halves of bytes, the second in the high ones.

    An odd block at the end of a row is packed in its own order.
    """
    above = (codes + 8).to(torch.uint8)
    rows, blocks = len(above), above.shape[1] // per_block
    pairs = above[:, : blocks // 2 * 2 * per_block].reshape(rows, blocks // 2, 2, per_block)
    woven = (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1)
    if blocks % 2:
        last = above[:, -per_block:]
        woven = torch.cat((woven, last[:, 0::2] | last[:, 1::2] << 4), dim=1)
    return woven
