"""Compiles the kernels when prunus is installed, if there is a compiler; if not, they are compiled when first used."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

PLACE = Path("prunus", "runtime", "kernels")


def _builder():  # type: ignore[no-untyped-def]
    """``prunus.runtime.build``, without importing prunus, which needs torch."""
    path = Path(__file__).parent / "src" / "prunus" / "runtime" / "build.py"
    spec = importlib.util.spec_from_file_location("prunus_build", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[spec.name] = module  # type: ignore[union-attr]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


class BuildWithKernels(build_py):
    """Puts the library beside its sources; an install never fails for want of it."""

    def run(self) -> None:
        super().run()
        builder = _builder()
        base = Path(__file__).parent / "src" if self.editable_mode else Path(self.build_lib)
        try:
            builder.build(base / PLACE)
        except builder.BuildError as error:
            self.warn(f"the kernels were not compiled ({error}); prunus tries again when they are first used")


class MachineDistribution(Distribution):
    """A wheel with compiled kernels is for one kind of machine."""

    def has_ext_modules(self) -> bool:
        return _builder().compiler() is not None


setup(cmdclass={"build_py": BuildWithKernels}, distclass=MachineDistribution)
