"""Reading ahead and writing behind: files in one background thread, while the main one computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor


class Background:
    """Runs file jobs one after another in a thread of its own, which is there from the first job until :meth:`rest`;
    :meth:`wait` raises what the last :meth:`later` raised."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._coming: dict[str, Future[Tensor]] = {}

    def later(self, job: Callable[[], None]) -> None:
        """Run ``job`` once the one before it is done and did not fail."""
        self.wait()
        self._pending = self._thread().submit(job)

    def wait(self) -> None:
        """Return when no job is left."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def expect(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        """Begin to read these tensors, in place of those expected before."""
        for future in self._coming.values():
            future.cancel()
        thread = self._thread()
        self._coming = {name: thread.submit(read, name) for name in names}

    def read(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """A tensor that was expected, or else one read now."""
        coming = self._coming.pop(name, None)
        return coming.result() if coming is not None else read(name)

    def rest(self) -> None:
        """End the thread once its jobs are done. One that has computed keeps OpenMP's threads for itself, and where there
        are more of them than cores, each parallel loop of the main thread waits until its own have woken up."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _thread(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="prunus-files")
        return self._pool
