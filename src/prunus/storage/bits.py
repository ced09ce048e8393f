"""Bits and half bytes, packed into bytes: the first in the lowest bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack_bits(bits: Tensor) -> Tensor:
    """``bits [rows n]``, bool, as bytes ``[rows ⌈n/8⌉]``.

    >>> pack_bits(torch.tensor([[True, False, True, False, False, False, False, False, True]])).tolist()
    [[5, 1]]
    """
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1, bitorder="little"))


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Undo :func:`pack_bits`: bool ``[rows count]``.

    Raises:
        ValueError: if bits beyond the last are set.
    """
    bits = np.unpackbits(packed.numpy(), axis=1, bitorder="little")
    if bits[:, count:].any():
        raise ValueError(f"bits are set beyond the last of {count} in a row")
    return torch.from_numpy(bits[:, :count]).view(torch.bool) if bits.shape[1] == count else torch.from_numpy(
        np.ascontiguousarray(bits[:, :count])
    ).view(torch.bool)  # fmt: skip


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes −8 … 7, of any shape, as the bytes ``[⌈n/2⌉]`` of what each is above −8, two a byte.

    >>> pack_nibbles(torch.tensor([-8, 7, 0], dtype=torch.int8)).tolist()
    [240, 8]
    """
    above = (codes.flatten() + 8).to(torch.uint8)
    above = torch.nn.functional.pad(above, (0, above.numel() % 2))
    return above[0::2] | above[1::2] << 4


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """Undo :func:`pack_nibbles`: int8 ``[count]``."""
    both = torch.stack((packed & 15, packed >> 4), dim=-1).flatten()[:count]
    return both.to(torch.int8) - 8
