"""CIFAR-10: the binary version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from ..core.errors import DataError
from .examples import Held, Samples, checked_labels
from .source import Source, folder_of, source

_RECORD = 1 + 3 * 32 * 32
_CLASSES = 10


@final
@source("cifar10", paper="https://www.cs.toronto.edu/~kriz/cifar.html", cost="184 MB of memory")
@dataclass(frozen=True)
class Cifar10(Source):
    """50,000 and 10,000 colour images, 32×32, 10 classes, from the binary version's files (``data_batch_*.bin``)."""

    folder: str = ""
    """Folder of those files, or the one that their archive was unpacked in."""

    def open(self) -> Samples:
        folder = folder_of("cifar10", self.folder)
        inner = folder / "cifar-10-batches-bin"
        folder = inner if inner.is_dir() else folder
        batches = sorted(folder.glob("data_batch_*.bin"))
        test = folder / "test_batch.bin"
        if not batches or not test.is_file():
            pickled = (folder / "data_batch_1").exists() or (folder / "cifar-10-batches-py").is_dir()
            why = " The pickled version is there, and unpickling runs code, so prunus does not do it." if pickled else ""
            missing = "data_batch_*.bin" if not batches else "test_batch.bin"
            raise DataError(f"{folder}: no {missing} is there.{why} Get cifar-10-binary.tar.gz.")
        return Samples.of_images("cifar10", _held(batches), _held([test]), _CLASSES)


def _held(paths: Sequence[Path]) -> Held:
    parts = []
    for path in paths:
        content = path.read_bytes()
        if not content or len(content) % _RECORD:
            raise DataError(
                f"{path}: {len(content):,} bytes are no whole number of images of {_RECORD}. Download it again."
            )
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, _RECORD)
        checked_labels(records[:, 0], _CLASSES, str(path))
        parts.append(records)
    records = torch.cat(parts)
    return Held(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())
