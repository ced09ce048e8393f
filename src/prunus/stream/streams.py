"""The hidden states that a run carries: the pruned model's, and the dense model's where stages aim at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from ..core.progress import Progress
from ..core.roles import BlockRuns
from ..core.site import Site
from .sources import Source
from .trunk import Limits, Trunk


class Streams:
    """``pruned`` sees the error of every pruned block before; ``dense`` (or None) has none. Both hold the same windows."""

    def __init__(self, source: Source, windows: Tensor, limits: Limits, folder: Path | None, with_dense: bool) -> None:
        self.folder = folder
        budget = limits.budget // 2 if with_dense else limits.budget
        self.pruned = Trunk(source, windows, limits.batch_tokens, budget, folder)
        self.dense = Trunk(source, windows, limits.batch_tokens, budget, folder, "dense") if with_dense else None

    @property
    def _named(self) -> dict[str, Trunk]:
        return {"state": self.pruned} | ({"dense": self.dense} if self.dense is not None else {})

    def start(self, done: int) -> int:
        """Embed the windows, or take up what was saved last within ``done`` blocks; returns the block they stand before."""
        for trunk in self._named.values():
            trunk.embed()
        folder = self.folder
        if folder is None or self.pruned.shares_state:
            return 0
        saved = [k for k in range(done) if all((folder / _file(name, k)).is_file() for name in self._named)]
        if not saved:
            return 0
        for name, trunk in self._named.items():
            trunk.state.restore(folder / _file(name, saved[-1]))
        return saved[-1] + 1

    def replay(self, first: int, done: int, take: Callable[[int, Streams], None], progress: Progress) -> None:
        """``take`` the states through the finished blocks from the ``first`` on, behind which none were saved."""
        if first < done:
            progress.start("Replaying finished blocks", done - first)
        for index in range(first, done):
            take(index, self)
            progress.step()

    def save(self, index: int) -> None:
        """Keep the states behind a block for a resumed run, once the block is marked."""
        if self.folder is None or self.pruned.shares_state:
            return
        for name, trunk in self._named.items():
            trunk.state.save(self.folder / _file(name, index))
        for name in self._named:
            for old in self.folder.glob(f"{name}-?????.bin"):
                if old.name < _file(name, index):
                    old.unlink()

    def close(self) -> None:
        """Drop the states and their files."""
        for trunk in self._named.values():
            trunk.close()


class LoadedBlock(BlockRuns):
    """One block of a Source between the two streams: input from the pruned one, target from the dense one behind it."""

    def __init__(self, source: Source, pruned: Trunk, dense: Trunk, index: int) -> None:
        self.block: nn.Module = source.blocks[index]
        self._source = source
        self._pruned = pruned
        self._dense = dense
        self._index = index

    def __len__(self) -> int:
        return len(self._pruned.batches)

    def output(self, number: int) -> Tensor:
        return self._pruned.run(self.block, self._index, number).hidden

    def target(self, number: int) -> Tensor:
        return self._dense.state.read(self._dense.batches[number], self._source.device)

    def parameter(self, site: Site) -> nn.Parameter:
        found: nn.Parameter = self._source.model.get_parameter(site.parameter)
        return found


def _file(name: str, index: int) -> str:
    return f"{name}-{index:05d}.bin"
