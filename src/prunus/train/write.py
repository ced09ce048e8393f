"""A healed student on disk: the tensors, shards and dtypes of the checkpoint that it came from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..checkpoint.writer import MirrorWriter
from ..stream.sources import CheckpointSource


def write_healed(source: CheckpointSource, student: nn.Module, folder: Path) -> None:
    """Write all that the student has of the source's tensors; what the model has no place for is copied as it is.

    Raises:
        OutputError: if the disk refuses.
    """
    writer = MirrorWriter(source.checkpoint, folder)
    writer.prepare()
    state = student.state_dict()
    for name in source.names.sources:
        for disk, value in source.names.to_disk({name: state[name].cpu()}).items():
            writer.put({disk: value.to(source.checkpoint.entry(disk).dtype)})
    writer.copy(source.names.strangers)
    writer.copy_extras()
    writer.sync()
