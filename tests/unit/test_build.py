"""The kernels' library: compiled where there is a compiler, done without where there is none, and chosen by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunus.core.errors import ResourceError
from prunus.runtime import library
from prunus.runtime.build import BuildError, build, compiler
from prunus.runtime.library import backend, kernels


@pytest.fixture(autouse=True)
def chosen_anew() -> Iterator[None]:
    kernels.cache_clear()
    yield
    kernels.cache_clear()


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler() is None
    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        build(tmp_path)


def test_a_compiler_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "cxx"
    program.write_text("#!/bin/sh\necho 'x.cpp:1:1: error: no such thing' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(BuildError, match="no such thing"):
        build(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_where_no_library_can_be_had_torch_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_folder: Path) -> Path:
        raise BuildError("no C++ compiler was found")

    monkeypatch.setattr(library, "build", fails)
    monkeypatch.setattr(library, "INSTALLED", tmp_path)
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING, "prunus"):
        assert kernels() is None
    assert "runs without its kernels" in caplog.text
    assert backend() == "torch, on unpacked weights"


def test_an_instruction_set_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_KERNELS", "portable")
    found = kernels()
    assert found is not None
    assert (found.level, found.name, backend()) == (0, "portable", "prunus kernels, portable")
    kernels.cache_clear()
    monkeypatch.setenv("PRUNUS_KERNELS", "mmx")
    with pytest.raises(ResourceError, match="this processor has portable"):
        kernels()


def test_the_best_instruction_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNUS_KERNELS", raising=False)
    found = kernels()
    assert found is not None
    assert found == found.levels()[-1]
