"""How long work reports where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of every task's steps; the command line draws bars from it."""

    def start(self, task: str, total: int) -> None:
        """A task of ``total`` steps begins; the one before it is over."""

    def step(self, note: str = "") -> None:
        """One step is done; ``note`` is a few words on how it went."""

    def close(self) -> None:
        """No task follows."""


class Silent:
    """Reports to nobody."""

    def start(self, task: str, total: int) -> None:
        return None

    def step(self, note: str = "") -> None:
        return None

    def close(self) -> None:
        return None
