"""Keeping freed memory for the next batch instead of handing it back to the system and asking for it again.

The C library returns large blocks to the system the moment they are freed, so that every activation of every batch is
paid for with fresh, zeroed pages, a good part of a forward pass on a CPU. A heap that is never handed back only grows,
though: what a solver frees does not fit what the next forward pass asks for. So much is kept, and no more.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..measure.memory import resident_bytes

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
_NEVER = 2**31 - 1
_USUAL_TRIM, _USUAL_MMAP = 64 << 20, 32 << 20  # where glibc's own adjustment ends
KEPT = 256 << 20
"""Bytes that the process may grow by before free pages are handed back."""
_level = {"resident": 0}
"""Bytes that were resident when free pages were last handed back."""


@contextmanager
def reused_memory() -> Iterator[None]:
    """Within this context large blocks come from the heap and stay in it, within limits; see :func:`return_free_memory`.

    Elsewhere than with glibc nothing changes.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP, _NEVER)
        library.mallopt(_TRIM, _NEVER)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(_MMAP, _USUAL_MMAP)
            library.mallopt(_TRIM, _USUAL_TRIM)
        return_free_memory(0)


def return_free_memory(kept: int = KEPT) -> None:
    """Hand free pages back to the system if the process has grown by more than ``kept`` bytes since that was last done."""
    library = _glibc()
    if library is not None and resident_bytes() > _level["resident"] + kept:
        library.malloc_trim(0)
        _level["resident"] = resident_bytes()


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
