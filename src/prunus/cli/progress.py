"""Progress on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_SECONDS = 15.0


class Bars:
    """A rich bar a task, with the block, its error and the time left."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._plain = None if console.is_terminal else Lines(console)
        self._progress = Progress(
            TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=console,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._started = False

    def start(self, task: str, total: int) -> None:
        if self._plain is not None:
            return self._plain.start(task, total)
        if not self._started:
            self._progress.start()
            self._started = True
        self._task = self._progress.add_task(task, total=total, note="")
        return None

    def step(self, note: str = "") -> None:
        if self._plain is not None:
            return self._plain.step(note)
        if self._task is not None:
            self._progress.update(self._task, advance=1, note=note)
        return None

    def close(self) -> None:
        if self._started:
            self._progress.stop()
            self._started = False


class Lines:
    """A line when a task begins, ends, and every quarter minute."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task, self._total, self._done = "", 0, 0
        self._began = self._last = monotonic()

    def start(self, task: str, total: int) -> None:
        self._task, self._total, self._done = task, total, 0
        self._began = self._last = monotonic()

    def step(self, note: str = "") -> None:
        self._done += 1
        now = monotonic()
        if now - self._last > _LINE_SECONDS or (self._done == self._total and now - self._began > 2):
            self._last = now
            left = (now - self._began) / self._done * (self._total - self._done)
            self._console.print(f"{self._task} {self._done}/{self._total}  {note}  {left:.0f} s left", highlight=False)
