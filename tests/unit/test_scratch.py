"""A disk beneath the temporary files that is full."""

from __future__ import annotations

import errno

import pytest

import prunus
from prunus.core.errors import OutputError
from prunus.stream.scratch import full_disk_told
from prunus.stream.state import State


@pytest.mark.parametrize("composed", [{"criterion": "gradient"}, {"allocation": "sensitivity"}, {"allocation": "owl"}])
def test_planning_says_so(composed, checkpoint, quick, tmp_path, monkeypatch) -> None:
    memory = State._buffer

    def full(state: State, number: int) -> object:
        if state.folder is None:
            return memory(state, number)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(State, "_buffer", full)
    with pytest.raises(OutputError, match="No space left on device, for hidden states.*TMPDIR"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **{**quick, "method": "wanda", **composed})
    assert not (tmp_path / "out").exists()


def test_other_faults_go_on_as_they_are() -> None:
    with pytest.raises(OSError, match="damaged") as caught, full_disk_told():
        raise OSError(errno.EIO, "damaged")
    assert not isinstance(caught.value, OutputError)
