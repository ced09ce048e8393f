"""The processes of one run (torchrun, accelerate launch): the first writes, all of them train."""

from __future__ import annotations

import os
from datetime import timedelta

_PATIENCE = timedelta(days=7)
"""Others wait this long while the first process asks the teacher, or judges."""


def is_first() -> bool:
    """Whether this process is the one that reads, writes and tells; alone it is."""
    return int(os.environ.get("RANK", "0")) == 0


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        from accelerate import PartialState

        PartialState(timeout=_PATIENCE).wait_for_everyone()
