"""MNIST and Fashion-MNIST: idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from ..core.errors import DataError
from .examples import Held, Samples, checked_labels
from .source import Source, folder_of, source

_CLASSES = 10
_BYTES = 0x08
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""


@final
@source("fashion-mnist", paper="arXiv:1708.07747", cost="55 MB of memory")
@dataclass(frozen=True)
class FashionMnist(Source):
    """60,000 and 10,000 grey images of clothes, 28×28, 10 classes.

    Found by itself where Debian's package ``dataset-fashion-mnist`` is installed.
    """

    folder: str = ""
    """Folder of the four idx files, packed (.gz) or not."""

    def open(self) -> Samples:
        return _samples("fashion-mnist", folder_of("fashion-mnist", self.folder, (_DEBIAN,)))


@final
@source("mnist", paper="https://ieeexplore.ieee.org/document/726791", cost="55 MB of memory")
@dataclass(frozen=True)
class Mnist(Source):
    """60,000 and 10,000 grey images of digits, 28×28, 10 classes."""

    folder: str = ""
    """Folder of the four idx files, packed (.gz) or not."""

    def open(self) -> Samples:
        return _samples("mnist", folder_of("mnist", self.folder))


def _samples(name: str, folder: Path) -> Samples:
    splits = []
    for prefix in ("train", "t10k"):
        images = read_idx(_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
        path = _file(folder, f"{prefix}-labels-idx1-ubyte")
        labels = read_idx(path, 1).long()
        if len(images) != len(labels):
            raise DataError(f"{path}: {len(labels)} labels for {len(images)} images.")
        checked_labels(labels, _CLASSES, str(path))
        splits.append(Held(images.unsqueeze(1), labels))
    return Samples.of_images(name, splits[0], splits[1], _CLASSES)


def _file(folder: Path, name: str) -> Path:
    """The file of this name, packed or not, with either of the two spellings that are in use."""
    names = [name + end for end in ("", ".gz")] + [name.replace("-idx", ".idx") + end for end in ("", ".gz")]
    found = next((folder / one for one in names if (folder / one).is_file()), None)
    if found is None:
        raise DataError(f"{folder}: neither {name} nor {name}.gz is there.")
    return found


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An idx file of bytes with so many dimensions, unpacked where its name ends in .gz.

    Raises:
        DataError: if its magic number or its length is another.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    magic = struct.pack(">HBB", 0, _BYTES, dimensions)
    if content[:4] != magic:
        raise DataError(
            f"{path}: begins with {content[:4].hex() or 'nothing'}, an idx file of this kind with {magic.hex()}."
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path}: ends within its header.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        sizes = "×".join(map(str, shape))
        raise DataError(f"{path}: holds {len(content) - header:,} bytes, its header says {sizes}. Download it again.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)
