"""Token windows: random ones to calibrate on, consecutive ones to judge on."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..core.errors import CalibrationError


def random_windows(ids: Tensor, samples: int, seqlen: int, seed: int, source: str) -> Tensor:
    """``[samples seqlen]`` windows of ``ids [tokens]`` at random offsets, the same for the same seed.

    Raises:
        CalibrationError: if the text is shorter than one window.
    """
    _enough(ids, seqlen, source)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(ids) - seqlen + 1, (samples,), generator=generator)
    return torch.stack([ids[start : start + seqlen] for start in starts.tolist()])


def consecutive_windows(ids: Tensor, seqlen: int, source: str, most: int | None = None) -> Tensor:
    """``[windows seqlen]``: ``ids [tokens]`` cut into non-overlapping windows, the tail dropped, the first ``most``.

    Raises:
        CalibrationError: if the text is shorter than one window.
    """
    _enough(ids, seqlen, source)
    count = len(ids) // seqlen
    return ids[: count * seqlen].view(count, seqlen)[: most or count]


def _enough(ids: Tensor, seqlen: int, source: str) -> None:
    if len(ids) < seqlen:
        raise CalibrationError(
            f"{source}: {len(ids)} tokens are fewer than one window of {seqlen}. Give more text, or a smaller --seqlen."
        )


def digest_of(windows: Tensor) -> str:
    """SHA-256 of token windows, to tell whether a resumed run reads the same text."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()
