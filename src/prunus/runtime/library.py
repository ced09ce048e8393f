"""The kernels' library: found, built on first use, called through ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.cache import cache_folder
from ..core.errors import ResourceError
from .build import BuildError, build, library_name

_log = logging.getLogger("prunus")
INSTALLED = Path(__file__).parent / "kernels"


class CMatrix(ctypes.Structure):
    """``Matrix`` of prunus.h."""

    _fields_ = (
        ("layout", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("brain_scales", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Kernels:
    """A loaded library and the instruction set, ``level``, that its kernels use."""

    library: ctypes.CDLL
    level: int

    @property
    def name(self) -> str:
        """What the instruction set is called."""
        return str(self.library.prunus_level_name(self.level).decode())

    def levels(self) -> list[Kernels]:
        """These kernels in every instruction set that the processor has."""
        numbers = range(16)
        return [Kernels(self.library, n) for n in numbers if self.library.prunus_has_level(n)]

    def multiply(self, matrix: CMatrix, x: Tensor, tokens: int, y: Tensor) -> None:
        """``x [tokens cols]`` times the transposed matrix into ``y [tokens rows]``, both fp32 and contiguous.

        Raises:
            ResourceError: if there is no memory for the work.
        """
        if self.library.prunus_multiply(matrix, self.level, x.data_ptr(), tokens, y.data_ptr()):
            raise ResourceError(f"no memory for the work room of a {matrix.rows}×{matrix.cols} layer at {tokens} tokens.")

    def decode(self, matrix: CMatrix, first: int, count: int) -> Tensor:
        """Rows ``first`` to ``first + count`` as fp32 ``[count cols]``."""
        out = torch.empty(count, matrix.cols)
        self.library.prunus_decode(ctypes.byref(matrix), self.level, first, count, out.data_ptr())
        return out

    def skip(self, matrix: CMatrix, x: Tensor, tokens: int, threshold: float, y: Tensor) -> int:
        """:meth:`multiply` for a matrix kept column by column and at most eight tokens, entries of ``x`` of at most
        ``threshold`` in magnitude counted as zero; how many columns were read, those that meet nothing else left out.

        Raises:
            ResourceError: if there is no memory for the work.
        """
        read = int(self.library.prunus_skip(matrix, self.level, x.data_ptr(), tokens, threshold, y.data_ptr()))
        if read < 0:
            raise ResourceError(f"no memory for the work room of a {matrix.rows}×{matrix.cols} layer at {tokens} tokens.")
        return read

    def read(self, tensor: Tensor) -> None:
        """Read all bytes of a tensor, by all threads, as the kernels read weights: the floor under their time."""
        self.library.prunus_read(tensor.data_ptr(), tensor.nbytes)


@cache
def kernels() -> Kernels | None:
    """The kernels for this processor; None where none can be had, which is said once.

    They are looked for where prunus is installed and in its cache, and compiled into the cache if they are in neither.
    ``PRUNUS_KERNELS`` set to the name of an instruction set chooses a lower one; set to ``none`` it does without.
    """
    wanted = os.environ.get("PRUNUS_KERNELS", "")
    if wanted == "none":
        return None
    try:
        found = _load(_library())
    except (BuildError, OSError) as error:
        _log.warning(
            "prunus runs without its kernels, which is slower: %s. Packed layers are unpacked and multiplied by torch.",
            error,
        )
        return None
    if not wanted:
        return found
    named = [level for level in found.levels() if level.name == wanted]
    if not named:
        known = ", ".join(level.name for level in found.levels())
        raise ResourceError(f"PRUNUS_KERNELS={wanted}: this processor has {known}, or say none.")
    return named[0]


def backend() -> str:
    """What packed layers run on, in a few words."""
    found = kernels()
    return "torch, on unpacked weights" if found is None else f"prunus kernels, {found.name}"


def _library() -> Path:
    name, cache_place = library_name(), cache_folder() / "kernels"
    for folder in (INSTALLED, cache_place):
        if (folder / name).is_file():
            return folder / name
    cache_place.mkdir(parents=True, exist_ok=True)
    with (cache_place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache_place / name).is_file():  # another process has compiled them meanwhile
            return cache_place / name
        _log.warning("prunus compiles its kernels, once for this machine: this takes a minute or two.")
        return build(cache_place)


def _load(path: Path) -> Kernels:
    library = ctypes.CDLL(str(path))  # after torch, whose OpenMP it is to share
    library.prunus_level_name.restype = ctypes.c_char_p
    library.prunus_multiply.argtypes = (
        ctypes.POINTER(CMatrix), ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    library.prunus_decode.argtypes = (
        ctypes.POINTER(CMatrix), ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    library.prunus_skip.argtypes = (
        ctypes.POINTER(CMatrix), ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p,
    )  # fmt: skip
    library.prunus_skip.restype = ctypes.c_int64
    library.prunus_read.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    return Kernels(library, int(library.prunus_level()))
