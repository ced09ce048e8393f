"""Token windows: random ones to calibrate on, consecutive ones to judge on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
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


def stored_windows(path: Path, most: int, vocabulary: int) -> Tensor:
    """``[windows seqlen]``: the first ``most`` token windows of a ``.npy`` file, tokenised elsewhere.

    Raises:
        CalibrationError: if it holds no such array, or ids that the ``vocabulary`` does not have.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"{path}: cannot be read as an array of token ids ({error}).") from error
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size or array.shape[1] < 2:
        raise CalibrationError(
            f"{path}: holds {array.dtype} {list(array.shape)}; wanted are token ids, integers [windows seqlen], "
            "seqlen at least 2."
        )
    if int(array.min()) < 0 or int(array.max()) >= vocabulary:
        raise CalibrationError(
            f"{path}: ids from {array.min()} to {array.max()}, the model's vocabulary has {vocabulary} entries: "
            "they do not belong together. Tokenise with this model's tokenizer."
        )
    return torch.from_numpy(array[:most].astype(np.int64))


def _enough(ids: Tensor, seqlen: int, source: str) -> None:
    if len(ids) < seqlen:
        raise CalibrationError(
            f"{source}: {len(ids)} tokens are fewer than one window of {seqlen}. Give more text, or a smaller --seqlen."
        )


def digest_of(windows: Tensor) -> str:
    """SHA-256 of token windows, to tell whether a resumed run reads the same text."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()
