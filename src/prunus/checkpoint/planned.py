"""A checkpoint that is yet to be written: its files, headers and offsets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from .disk import write_atomically
from .safetensors_file import Entry, SafetensorsFile, header_of
from .source import INDEX, SINGLE, Checkpoint

Tensors = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of every tensor, by name."""


def planned(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], folder: Path, shard_bytes: int) -> Checkpoint:
    """The files that these tensors take, none larger than ``shard_bytes`` unless a single tensor is."""
    parts: list[Tensors] = [{}]
    used = 0
    for name, (dtype, shape) in tensors.items():
        size = dtype.itemsize * torch.Size(shape).numel()
        if parts[-1] and used + size > shard_bytes:
            parts.append({})
            used = 0
        parts[-1][name] = (dtype, shape)
        used += size
    count = len(parts)
    names = [SINGLE] if count == 1 else [f"model-{k + 1:05d}-of-{count:05d}.safetensors" for k in range(count)]
    return Checkpoint(folder, tuple(_file(folder / name, part) for name, part in zip(names, parts, strict=True)))


def write_index(checkpoint: Checkpoint) -> None:
    """The index of a checkpoint of several files."""
    if len(checkpoint.shards) == 1:
        return
    total = sum(entry.nbytes for shard in checkpoint.shards for entry in shard.entries.values())
    weight_map = {name: shard.path.name for name, shard in checkpoint.home.items()}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_atomically(checkpoint.folder / INDEX, json.dumps(index, indent=2) + "\n")


def _file(path: Path, tensors: Tensors) -> SafetensorsFile:
    header, length = header_of(tensors)
    entries, start = {}, len(header)
    for name, (dtype, shape) in tensors.items():
        stop = start + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = Entry(name, dtype, shape, start, stop)
        start = stop
    return SafetensorsFile(path, header, entries, len(header) + length)
