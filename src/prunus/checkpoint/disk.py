"""Files made to last: room taken for them at once, and bytes and names that are on the disk before others rely on them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError


def reserve(file: IO[Any], size: int) -> None:
    """Give an open file at least ``size`` bytes; a full disk shows now where the system can take the room (Linux)."""
    take = getattr(os, "posix_fallocate", None)
    if take is not None:
        take(file.fileno(), 0, size)
    elif os.fstat(file.fileno()).st_size < size:
        file.truncate(size)


def sync(path: Path) -> None:
    """Force a file's bytes and its size, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        getattr(os, "fdatasync", os.fsync)(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Force all that is in a folder to the disk, and its names."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


@contextmanager
def system_errors() -> Iterator[None]:
    """Within this context what safetensors says of a disk that refuses is the system's own error again.

    Raises:
        OSError: in the place of a SafetensorError with the number of one.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_atomically(path: Path, text: str) -> None:
    """A file of this text in place of what had its name: on a crash either of them is there, whole."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
