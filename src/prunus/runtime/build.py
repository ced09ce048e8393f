"""Compiles the kernels into a shared library. Also run by ``setup.py``: nothing here but the standard library."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
_COMMON = ("-std=c++17", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fPIC", "-fopenmp", "-fno-math-errno",
           "-fno-trapping-math", "-fvisibility=hidden", "-w")  # fmt: skip
_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_VNNI = (*_AVX512, "-mavx512vnni")


@dataclass(frozen=True)
class _Unit:
    """One object file: its source and what the compiler is told besides."""

    source: str
    flags: tuple[str, ...] = ()
    entry: str = ""


_UNITS: dict[str, tuple[_Unit, ...]] = {
    "aarch64": (_Unit("neon.cpp", ("-march=armv8.2-a+dotprod",)),),
    "x86_64": (
        _Unit("avx2.cpp", _AVX2),
        _Unit("avx512.cpp", _AVX512, "kernels_avx512"),
        _Unit("avx512.cpp", _VNNI, "kernels_avx512_vnni"),
        _Unit("avx512.cpp", (*_VNNI, "-mavx512vbmi", "-mavx512vbmi2"), "kernels_avx512_vbmi2"),
    ),
}


class BuildError(Exception):
    """The kernels cannot be compiled here."""


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, or what is called g++, clang++ or c++."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def library_name() -> str:
    """The library's file name: of other sources, flags or another kind of processor it is another."""
    digest = hashlib.sha256(repr((_COMMON, _UNITS, platform.machine())).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".h", ".cpp"}:
            digest.update(path.name.encode() + path.read_bytes())
    return f"libprunus-{digest.hexdigest()[:16]}.so"


def build(folder: Path) -> Path:
    """Compile all that this kind of processor may run into ``folder``; the library.

    Raises:
        BuildError: if there is no compiler, or it fails.
    """
    program = compiler()
    if program is None:
        raise BuildError("no C++ compiler was found (g++, clang++ or $CXX)")
    target = folder / library_name()
    units = (_Unit("portable.cpp"), _Unit("dispatch.cpp"), *_UNITS.get(platform.machine(), ()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix="build-") as place,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            objects = pool.map(lambda number: _compile(program, number, units[number], Path(place)), range(len(units)))
            made = Path(place) / "library.so"
            # No OpenMP library is linked: its functions are found in torch's own, so that threads are shared.
            _run([program, "-shared", "-static-libgcc", "-o", str(made), *map(str, list(objects))])
            made.replace(target)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written ({error.strerror or error})") from error
    return target


def _compile(program: str, number: int, unit: _Unit, place: Path) -> Path:
    made = place / f"{number}.o"
    named = [f"-DENTRY={unit.entry}"] if unit.entry else []
    _run([program, *_COMMON, *unit.flags, *named, "-c", str(SOURCES / unit.source), "-o", str(made)])
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise BuildError(f"{Path(command[0]).name} failed: {said.strip()}")
