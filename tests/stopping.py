"""Runs that are stopped on purpose, and taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prunus


class StopAfter:
    """A progress reporter that presses Ctrl-C after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.task = ""
        self.replayed = 0

    def start(self, task: str, total: int) -> None:
        self.task = task

    def step(self, note: str = "") -> None:
        if self.task.startswith("Replaying"):
            self.replayed += 1
        elif self.task in ("Pruning", "Cutting") and note != "done before":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def close(self) -> None:
        pass


def stopped_and_resumed(
    model: Path, output: Path, blocks: int = 2, resumed: StopAfter | None = None, verb: Callable[..., Any] = prunus.prune,
    **settings: Any,
) -> Path:  # fmt: skip
    """Prune ``model`` into ``output``, stopped once behind its first ``blocks``; ``resumed`` is told of what follows."""
    with pytest.raises(KeyboardInterrupt):
        verb(model, output, progress=StopAfter(blocks), **settings)
    assert not output.exists()
    verb(model, output, resume=True, progress=resumed, **settings)
    return output
