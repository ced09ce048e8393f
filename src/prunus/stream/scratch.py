"""Temporary folders for hidden states, gradients and trials, and a disk beneath them that is full."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from weakref import finalize

from ..core.errors import OutputError


@contextmanager
def full_disk_told() -> Iterator[None]:
    """Within this context, or as a decorator: a full disk becomes an error that says where, and what to do.

    Raises:
        OutputError: if there is no room for temporary files.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"{tempfile.gettempdir()}: {error.strerror}, for hidden states and the like. Free some space there, or let "
            "TMPDIR name a folder that has more."
        ) from error


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A temporary folder that is there within this context; a full disk is told (:func:`full_disk_told`)."""
    with full_disk_told(), tempfile.TemporaryDirectory(prefix="prunus-") as folder:
        yield Path(folder)


def folder_of(owner: object) -> Path:
    """A temporary folder that is there as long as ``owner`` is."""
    with full_disk_told():
        folder = Path(tempfile.mkdtemp(prefix="prunus-"))
    finalize(owner, rmtree, folder, ignore_errors=True)
    return folder
