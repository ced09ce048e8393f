"""The carried state: every window's hidden states between two blocks, in memory or in a memory-mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.disk import reserve, sync


def hidden_bytes(model: Any, windows: Tensor) -> int:
    """Bytes of one buffer of hidden states of these ``windows [windows seqlen]``."""
    return int(windows.numel() * model.config.get_text_config().hidden_size * model.dtype.itemsize)


class State:
    """Hidden states ``[windows seqlen width]`` of all windows, read and written a batch of windows at a time.

    Past ``budget`` bytes they live in memory-mapped files ``NAME-0.bin`` and ``NAME-1.bin`` in ``folder``, else in memory.
    Two buffers take turns: a block reads one and writes the other, so that what a block started from stays whole until the
    block is finished.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, budget: int, folder: Path | None, name: str = "spill"
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        self.spilled = folder is not None and 2 * nbytes > budget
        self.folder = folder
        self.name = name
        self._buffers = [self._buffer(k) for k in (0, 1)]
        self._front = 0

    def _buffer(self, number: int) -> Tensor:
        if not self.spilled or self.folder is None:
            return torch.empty(self.shape, dtype=self.dtype)
        path = self.folder / f"{self.name}-{number}.bin"
        count = torch.Size(self.shape).numel()
        with path.open("wb") as file:
            reserve(file, max(1, count * self.dtype.itemsize))
        flat = torch.from_file(str(path), shared=True, size=count, dtype=self.dtype)
        return flat.view(self.shape)

    def read(self, windows: slice, device: torch.device) -> Tensor:
        """A copy of the hidden states of some windows, on ``device``."""
        return self._buffers[self._front][windows].to(device, copy=True)

    def write(self, windows: slice, hidden: Tensor) -> None:
        """What the same windows will be after :meth:`advance`."""
        self._buffers[1 - self._front][windows] = hidden.to("cpu", self.dtype)

    def advance(self) -> None:
        """Make what was written what is read."""
        self._front = 1 - self._front

    def save(self, path: Path) -> None:
        """Write what is read now to a file of its own, atomically."""
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            for window in self._buffers[self._front]:
                file.write(memoryview(window.contiguous().flatten().view(torch.uint8).numpy()))
        sync(temporary)
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Read back what :meth:`save` wrote."""
        with path.open("rb") as file:
            for k in range(self.shape[0]):
                raw = bytearray(file.read(self._buffers[0][k].numel() * self.dtype.itemsize))
                self._buffers[self._front][k] = torch.frombuffer(raw, dtype=self.dtype).view(self.shape[1:])

    def close(self) -> None:
        """Drop the buffers and their files."""
        self._buffers = []
        if self.spilled and self.folder is not None:
            for number in (0, 1):
                (self.folder / f"{self.name}-{number}.bin").unlink(missing_ok=True)
