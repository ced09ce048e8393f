"""Temporary files of hidden states, gradients and trials, and a disk beneath them that is full."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
