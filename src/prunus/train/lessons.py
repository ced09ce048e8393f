"""The windows of a training run as a data set, with what the teacher says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import CalibrationError
from ..observe.windows import consecutive_windows
from .teacher import TeacherCache


class Windows(Dataset[dict[str, Tensor]]):
    """Token windows ``[windows seqlen]``; ``first`` is the number of the first in the teacher's cache."""

    def __init__(self, windows: Tensor, cache: TeacherCache | None = None, first: int = 0) -> None:
        self.windows = windows
        self._cache = cache
        self._first = first

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        own = {"input_ids": self.windows[index], "labels": self.windows[index]}
        return own if self._cache is None else {**own, **self._cache.read(self._first + index)}


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Items of a batch, stacked."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def training_windows(ids: Tensor, seqlen: int, tokens: int, held_out: int, seed: int, source: str) -> tuple[Tensor, Tensor]:
    """Windows to train on, about ``tokens`` tokens in an order of chance, and ``held_out`` windows of the same text.

    They do not overlap.

    Raises:
        CalibrationError: if the text is too short.
    """
    windows = consecutive_windows(ids, seqlen, source)
    count = max(1, tokens // seqlen)
    if len(windows) < count + held_out:
        most = max(0, len(windows) - held_out) * seqlen
        raise CalibrationError(
            f"{source}: {len(ids):,} tokens are too few for {tokens:,} to train on and {held_out} windows of {seqlen} held "
            f"out. Give more text, or --tokens {most} and --epochs for more passes over them."
        )
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    return windows[order[held_out : held_out + count]], windows[order[:held_out]]
