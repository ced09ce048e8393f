"""unpack: the plain checkpoint that was packed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ..checkpoint.new_output import new_output
from ..checkpoint.packed_file import PREFIX, PackedFile
from ..checkpoint.replace import check_free, check_replaceable
from ..checkpoint.safetensors_file import SafetensorsFile, plain_file, raw_bytes, write_at
from ..checkpoint.source import CONFIG, INDEX, Checkpoint
from ..core.errors import CheckpointError
from ..core.progress import Progress, Silent
from ..models.locate import locate
from ..models.skeleton import PLAIN_CONFIG


@dataclass(frozen=True)
class Unpacked:
    """What was written; bytes are those of all files with weights."""

    model: str
    output: str
    layers: int
    packed_bytes: int
    plain_bytes: int
    seconds: float


def unpack(model: str | Path, output: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> Unpacked:
    """Write the checkpoint that was packed into the folder ``model``: the same bytes, where values were not rounded.

    Raises:
        CheckpointError: if ``model`` is not packed, or is damaged.
        OutputError: if ``output`` exists and ``overwrite`` was not asked for, it is no checkpoint that could be
            replaced, or it cannot be written.
    """
    start, reporter, target = perf_counter(), progress or Silent(), Path(output).expanduser()
    check_free(target, overwrite)
    folder = locate(model)
    check_replaceable(target, folder, model)
    checkpoint = Checkpoint.open(folder, bare=True)
    if not checkpoint.packed:
        raise CheckpointError(f"{folder} is not packed: any program that reads safetensors takes it as it is.")
    try:
        with new_output(target, folder, model, "prunus-unpack", overwrite) as place:
            size = _write(checkpoint, place, reporter)
    finally:
        reporter.close()
    layers = sum(len(shard.weights) for shard in checkpoint.shards if isinstance(shard, PackedFile))
    return Unpacked(str(model), str(target), layers, checkpoint.nbytes, size, round(perf_counter() - start, 3))


def _write(checkpoint: Checkpoint, folder: Path, progress: Progress) -> int:
    """All files of the plain checkpoint; the bytes of those with weights."""
    progress.start("Unpacking", len(checkpoint.names))
    for shard in checkpoint.shards:
        header = shard.plain_header.encode() if isinstance(shard, PackedFile) else shard.header[8:]
        file: SafetensorsFile = plain_file(folder / shard.path.name.removeprefix(PREFIX), header)
        for name, entry in file.entries.items():
            tensor = shard.read(name)
            if (tensor.dtype, tuple(tensor.shape)) != (entry.dtype, entry.shape):
                raise CheckpointError(
                    f"{shard.path}: '{name}' unpacks to {tensor.dtype} {list(tensor.shape)}, not what it was."
                )
            write_at(file.path, entry.start, raw_bytes(tensor))
            progress.step(name)
    for path in checkpoint.extras():
        if path.name != PLAIN_CONFIG:
            place = folder / path.relative_to(checkpoint.folder)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(path.read_bytes())
    config = checkpoint.folder / PLAIN_CONFIG
    if not config.is_file() and not checkpoint.bare:
        raise CheckpointError(
            f"{checkpoint.folder}: {PLAIN_CONFIG} is missing, the config before it was packed. Pack it again."
        )
    if config.is_file():
        (folder / CONFIG).write_bytes(config.read_bytes())
    if checkpoint.index is not None:
        (folder / INDEX).write_bytes(checkpoint.index.read_bytes())
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
