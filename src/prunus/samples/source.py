"""Where samples come from: kinds of sources by name, and folders looked for in the usual places."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import DataError
from ..core.registry import Registry, make
from .examples import Samples

VARIABLE = "PRUNUS_DATA"


class Source(ABC):
    """A kind of source; its fields say which one."""

    @abstractmethod
    def open(self) -> Samples:
        """Read it.

        Raises:
            DataError: if it is missing, damaged, or not what it is said to be.
        """


source: Registry[Source] = Registry("data", "prunus.samples")


def source_of(spec: str) -> Source:
    """The source that ``kind:option=value,…`` spells; the first option's name may be left out (``npz:cifar.npz``).

    Raises:
        ValueError: if there is no such kind or option.
    """
    kind, colon, rest = spec.partition(":")
    entry = source.entries().get(kind.strip())
    first, comma, more = rest.partition(",")
    if entry is not None and entry.options and first and "=" not in first:
        rest = f"{next(iter(entry.options))}={first}{comma}{more}"
    return make(source, f"{kind}{colon}{rest}")


def folder_of(name: str, given: str, usual: Sequence[Path] = ()) -> Path:
    """The folder that was ``given``, else ``$PRUNUS_DATA/name``, else the first of the ``usual`` ones that is there.

    Raises:
        DataError: if there is none.
    """
    if given:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise DataError(f"data {name}: no such folder, {folder}.")
        return folder
    own = [Path(os.environ[VARIABLE]).expanduser() / name] if os.environ.get(VARIABLE) else []
    found = next((folder for folder in (*own, *usual) if folder.is_dir()), None)
    if found is None:
        looked = ", ".join(map(str, (*own, *usual))) or f"{VARIABLE} is not set"
        raise DataError(
            f"data {name}: no folder was given and none is in the usual places ({looked}). Give one, {name}:FOLDER, or let "
            f"{VARIABLE} name the folder that {name} is in."
        )
    return found
