"""The compressed-tensors layout ``pack-quantized``, which vLLM and Transformers load: codes packed into 32-bit words.

Of a linear layer's ``weight [rows cols]`` it has ``weight_packed`` int32 ``[rows, cols·bits/32]``, first code in the lowest
bits; ``weight_scale [rows groups]``; ``weight_shape``; and, of a grid that is not symmetric, ``weight_zero_point``, packed
along the rows. Codes are stored as what they are above the lowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

BITS = (4, 8)
"""Bits of a code that serving engines have kernels for."""


def packed_layer(codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> dict[str, Tensor]:
    """What stands for ``weight`` of a layer: ``codes [rows cols]`` from 0 on, ``scales`` and ``zeros [rows groups]``."""
    found = {
        "weight_packed": pack(codes, bits),
        "weight_scale": scales.contiguous(),
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if zeros is not None:
        found["weight_zero_point"] = pack(zeros.T, bits).T.contiguous()
    return found


def pack(codes: Tensor, bits: int) -> Tensor:
    """``codes [rows cols]``, whole numbers of so many bits, as int32 ``[rows, ⌈cols·bits/32⌉]``.

    >>> pack(torch.tensor([[1, 2, 15]]), 4).tolist()
    [[3873]]
    """
    each = 32 // bits
    padded = torch.nn.functional.pad(codes.to(torch.int64), (0, -codes.shape[1] % each)).unflatten(1, (-1, each))
    words = (padded << (bits * torch.arange(each, device=codes.device))).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpack(words: Tensor, bits: int, cols: int) -> Tensor:
    """Undo :func:`pack`."""
    shifts = bits * torch.arange(32 // bits)
    codes = words.to(torch.int64).unsqueeze(-1) >> shifts & (1 << bits) - 1
    return codes.flatten(1)[:, :cols]


def quantization_config(grid: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """What ``config.json`` says of it; ``ignored`` are the linear layers that are stored plainly."""
    weights = {
        "num_bits": grid["bits"],
        "type": "int",
        "symmetric": grid["symmetric"],
        "strategy": "group" if grid["group"] else "channel",
        "group_size": grid["group"] or None,
        "dynamic": False,
        "observer": "minmax",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": list(ignored),
    }
