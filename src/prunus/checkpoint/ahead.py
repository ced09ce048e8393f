"""Reading ahead and writing behind: files in one background thread, while the main one computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor


class Background:
    """Runs file jobs one after another in a thread of its own; :meth:`wait` raises what the last :meth:`later` raised."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prunus-files")
        self._pending: Future[None] | None = None
        self._coming: dict[str, Future[Tensor]] = {}

    def later(self, job: Callable[[], None]) -> None:
        """Run ``job`` once the one before it is done and did not fail."""
        self.wait()
        self._pending = self._pool.submit(job)

    def wait(self) -> None:
        """Return when no job is left."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def expect(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        """Begin to read these tensors, in place of those expected before."""
        for future in self._coming.values():
            future.cancel()
        self._coming = {name: self._pool.submit(read, name) for name in names}

    def read(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """A tensor that was expected, or else one read now."""
        coming = self._coming.pop(name, None)
        return coming.result() if coming is not None else read(name)
