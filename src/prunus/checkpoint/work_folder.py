"""The hidden folder beside an output in which it grows: one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

from ..core.errors import OutputError
from .disk import sync, sync_all

LOCK = "lock"
REPLACED = "replaced"


class WorkFolder:
    """The folder ``.OUT.KIND`` beside the ``target`` OUT, on the same disk."""

    def __init__(self, target: Path, kind: str) -> None:
        self.target = target
        self.path = target.parent / f".{target.name}.{kind}"
        self._lock: TextIO | None = None

    def take(self, wait: bool = False) -> None:
        """Make it, if it is not there, and lock it; ``wait`` until another process has let go of it.

        Raises:
            OutputError: if another process is at work in it, or it cannot be made.
        """
        try:
            while not self._locked(wait):
                pass
        except BlockingIOError as error:
            raise OutputError(
                f"{self.target}: another prunus process is writing it. Wait for it, or give another -o."
            ) from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}). Choose another -o.") from error

    def _locked(self, wait: bool) -> bool:
        """Whether the lock was taken of a folder that is still there: another process may have removed it meanwhile."""
        self.path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as opened:
            lock = opened.enter_context((self.path / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(lock.fileno()), (self.path / LOCK).stat()):
                opened.pop_all()
                self._lock = lock
                return True
        return False

    @property
    def set_aside(self) -> Path | None:
        """What had the target's name, if a process was killed before it gave that to another."""
        aside = self.path / REPLACED
        return aside if aside.exists() and not self.target.exists() else None

    def empty(self) -> None:
        """Clear away what an earlier process left in it; what it set aside and had not replaced yet is put back."""
        self._put_back()
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def give(self, new: Path) -> None:
        """Name the finished ``new``, which is in this folder, as the target; what had that name is set aside in here.

        On return it is so after a crash too. If it fails, what had the name has it again.
        """
        sync_all(new)
        before = self.target.exists()
        try:
            if before:
                self.target.rename(self.path / REPLACED)
            new.rename(self.target)
        except BaseException:
            if before:
                self._put_back()
            raise
        sync(self.target.parent)

    def _put_back(self) -> None:
        """Give what was set aside its name again, where nothing has it."""
        aside = self.set_aside
        if aside is not None:
            aside.rename(self.target)

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove(self) -> None:
        """Clear it away with all that is in it, and let go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()
