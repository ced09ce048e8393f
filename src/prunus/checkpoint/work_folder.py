"""The hidden folder beside an output in which it grows: one process at a time."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import TextIO

from ..core.errors import OutputError

LOCK = "lock"


class WorkFolder:
    """The folder ``.OUT.KIND`` beside the ``target`` OUT, on the same disk."""

    def __init__(self, target: Path, kind: str) -> None:
        self.target = target
        self.path = target.parent / f".{target.name}.{kind}"
        self._lock: TextIO | None = None

    def take(self) -> None:
        """Make it, if it is not there, and lock it.

        Raises:
            OutputError: if another process is at work in it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise OutputError(
                f"{self.target}: another prunus process is writing it. Wait for it, or give another -o."
            ) from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}). Choose another -o.") from error

    def empty(self) -> None:
        """Clear away what an earlier process left in it."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove(self) -> None:
        """Let go of it, and clear it away with all that is in it."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)
