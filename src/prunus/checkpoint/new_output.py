"""An output made in one go: it grows out of sight, and has its name only when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import OutputError
from .journal import OUTPUT
from .replace import check_free, check_replaceable
from .work_folder import WorkFolder


@contextmanager
def new_output(target: Path, model: Path, typed: str | Path, kind: str, overwrite: bool) -> Iterator[Path]:
    """An empty folder that is named ``target`` once the context is left without an error; else nothing of it stays.

    It is made from the folder ``model``, asked for as ``typed``, in a hidden folder of this ``kind``.

    Raises:
        OutputError: if ``target`` may not be replaced (any more), another process writes it, or it cannot be written.
    """
    work = WorkFolder(target, kind)
    work.take()
    try:
        work.empty()
        (work.path / OUTPUT).mkdir()
        yield work.path / OUTPUT
        check_free(target, overwrite)  # something may have come there meanwhile
        check_replaceable(target, model, typed)
        work.give(work.path / OUTPUT)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}). Choose another -o.") from error
    finally:
        work.remove()
