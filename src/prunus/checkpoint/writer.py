"""The writer: the output mirrors the source's files byte for byte, except where a tensor was pruned.

Pruning changes no shape and no dtype, so every output shard is known before the first tensor: it is laid down at its
full size (a full disk shows at once), tensors are written into their places in any order, and writing one twice is
harmless, which is what makes a run resumable.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from ..core.errors import OutputError
from .disk import reserve, sync
from .safetensors_file import SafetensorsFile, raw_bytes, write_at
from .source import INDEX, Checkpoint

_CHUNK = 16 << 20


class MirrorWriter:
    """Writes a copy of ``source`` into ``folder``, with some tensors replaced."""

    def __init__(self, source: Checkpoint, folder: Path) -> None:
        self.source = source
        self.folder = folder

    def prepare(self, begun: bool = False, also: int = 0) -> None:
        """Create every shard at its full size with its header; ``also`` bytes more will be wanted beside them.

        Raises:
            CheckpointError: if the source is packed, so that its files are not of the size that the output will be.
            OutputError: if the disk is too small or not writable, or finished blocks are said to be in shards
                (``begun``) that are not there.
        """
        self.source.require_plain()
        for shard in self.source.shards if begun else ():
            path = self.folder / shard.path.name
            if not path.is_file() or path.stat().st_size != shard.size:
                raise OutputError(
                    f"{path} is gone or cut off, though the journal says that blocks in it are done. "
                    f"Remove {self.folder.parent} to start anew."
                )
        needed = self.source.nbytes + also
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            present = sum(path.stat().st_blocks * 512 for path in self.folder.glob("*.safetensors"))
            free = shutil.disk_usage(self.folder).free
            if needed - present > free:
                raise OutputError(
                    f"{self.folder.parent}: the output needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free. "
                    "Free some space or give another folder with -o."
                )
            for shard in self.source.shards:
                path = self.folder / shard.path.name
                with path.open("r+b" if path.exists() else "w+b") as file:
                    reserve(file, shard.size)
                    file.write(shard.header)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror}). Choose another -o.") from error

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Write these tensors (names as in the source) into their places.

        Raises:
            OutputError: if a name, dtype or shape is not the source's, or the disk refuses.
        """
        for name, tensor in tensors.items():
            if name not in self.source.home:
                raise OutputError(f"tensor '{name}' is not in {self.source.folder}")
            entry = self.source.entry(name)
            if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
                raise OutputError(
                    f"tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, "
                    f"the source has {entry.dtype} {list(entry.shape)}"
                )
            try:
                write_at(self.folder / self.source.home[name].path.name, entry.start, raw_bytes(tensor))
            except OSError as error:
                raise OutputError(f"{self.folder}: writing '{name}' failed ({error.strerror}).") from error

    def read(self, name: str) -> Tensor:
        """Read a tensor back from the output."""
        shard = cast(SafetensorsFile, self.source.home[name])
        return replace(shard, path=self.folder / shard.path.name).read(name)

    def copy(self, names: Iterable[str]) -> None:
        """Copy these tensors' bytes from the source as they are."""
        for name in names:
            entry, shard = self.source.entry(name), self.source.home[name]
            with shard.path.open("rb") as file:
                file.seek(entry.start)
                for start in range(entry.start, entry.stop, _CHUNK):
                    write_at(self.folder / shard.path.name, start, file.read(min(_CHUNK, entry.stop - start)))

    def sync(self) -> None:
        """Force the shards to the disk, so that the journal never runs ahead of them."""
        for shard in self.source.shards:
            sync(self.folder / shard.path.name)

    def copy_extras(self) -> None:
        """Copy index, config, tokenizer, generation config and the like unchanged."""
        self.source.copy_extras(self.folder)
        if self.source.index is not None:
            shutil.copyfile(self.source.index, self.folder / INDEX)
