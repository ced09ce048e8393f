"""What a teacher says of the training windows: its likeliest tokens, computed once and kept on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.disk import reserve
from ..core.errors import ResourceError
from ..core.lesson import TopLogits
from ..core.progress import Progress
from ..stream.evaluate import forwarded
from ..stream.sources import Source
from ..stream.trunk import Limits

_PART_TOKENS = 131_072
"""After so many tokens what was said is kept: a pass over the blocks costs their reading."""
_FILES = {"ids": np.int32, "logs": np.float16, "rest": np.float16}


class TeacherCache:
    """Arrays on disk: ``ids`` and ``logs [windows seqlen k]``, ``rest [windows seqlen]``; 6 bytes for each of ``k``."""

    def __init__(self, folder: Path, windows: Tensor, k: int, temperature: float) -> None:
        self._folder = folder
        self._windows = windows
        self._temperature = temperature
        count, seqlen = windows.shape
        self._shapes = {"ids": (count, seqlen, k), "logs": (count, seqlen, k), "rest": (count, seqlen)}
        self._open: dict[str, np.memmap[tuple[int, ...], np.dtype[np.generic]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(int(np.prod(shape)) * np.dtype(_FILES[name]).itemsize for name, shape in self._shapes.items())

    def fill(self, teacher: Source, limits: Limits, progress: Progress, first: int, told: Callable[[int], None]) -> None:
        """Run the teacher over the windows from number ``first`` on, block by block; ``told`` is called with how many are
        kept, once they are on the disk.

        Raises:
            ResourceError: if the disk has no room for what it says.
        """
        count, seqlen, k = self._shapes["ids"]
        if first == count:
            return
        if not first:
            self._reserve()
        arrays = {name: self._array(name, "r+") for name in _FILES}
        part = max(1, _PART_TOKENS // seqlen)
        for start in range(first, count, part):
            windows = self._windows[start : start + part]
            task = "Asking the teacher" + (f", from window {start + 1:,} of {count:,}" if count > part else "")
            with forwarded(teacher, windows, limits.batch_tokens, progress, task) as trunk:
                for place, logits in trunk.logits():
                    top = TopLogits.of(logits, k, self._temperature)
                    there = slice(start + place.start, start + place.stop)
                    for name, value in (("ids", top.ids), ("logs", top.logs), ("rest", top.rest)):
                        arrays[name][there] = value.cpu().numpy().astype(_FILES[name])
            for array in arrays.values():
                array.flush()
            told(start + len(windows))

    def _reserve(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if self.nbytes > free:
            raise ResourceError(
                f"{self._folder}: what the teacher says takes {self.nbytes / 1e9:.1f} GB, {free / 1e9:.1f} are free. Ask "
                "for fewer --tokens, or fewer of its likeliest: --loss kl:top=32."
            )
        for name, shape in self._shapes.items():
            with (self._folder / f"{name}.bin").open("wb") as file:
                reserve(file, int(np.prod(shape)) * np.dtype(_FILES[name]).itemsize)

    def read(self, window: int) -> dict[str, Tensor]:
        """One window's ``ids``, ``logs`` and ``rest``."""
        for name in _FILES:
            if name not in self._open:
                self._open[name] = self._array(name, "r")
        found = {name: torch.from_numpy(np.array(self._open[name][window])) for name in _FILES}
        return {"top_ids": found["ids"].long(), "top_logs": found["logs"].float(), "top_rest": found["rest"].float()}

    def _array(self, name: str, mode: str) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
        path = self._folder / f"{name}.bin"
        return np.memmap(path, dtype=_FILES[name], mode=mode, shape=self._shapes[name])  # type: ignore[call-overload,no-any-return]
