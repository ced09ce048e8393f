"""Bits packed into bytes: the first in the lowest."""

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
