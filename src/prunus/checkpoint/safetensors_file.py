"""One safetensors file, read and written tensor by tensor.

Plain reads instead of a memory map: mapped pages count as resident memory, and a mirror needs byte offsets anyway.
The format: 8 bytes little-endian header length, a JSON header with dtype, shape and offsets, then the raw bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from .disk import reserve, sync

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` and ``stop`` are byte offsets in the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class SafetensorsFile:
    """A parsed and checked header; ``header`` holds its bytes (length prefix included) as they stand in the file."""

    path: Path
    header: bytes
    entries: dict[str, Entry]
    size: int

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Read and check the header; no tensor is read.

        Raises:
            CheckpointError: if the file is missing, truncated, corrupt or no safetensors file.
        """
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                prefix = file.read(8)
                length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
                if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                    raise CheckpointError(f"{path}: no safetensors file, or cut off ({size} bytes). Download it again.")
                body = file.read(length)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
        try:
            entries = _entries(json.loads(body), 8 + length, size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: corrupt safetensors header ({error}). Download it again.") from error
        return cls(path, prefix + body, entries, size)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The texts that the header holds beside the tensors."""
        found = json.loads(self.header[8:]).get("__metadata__") or {}
        return {str(key): str(value) for key, value in found.items()}

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype, in memory of its own."""
        entry = self.entries[name]
        data = torch.empty(entry.nbytes, dtype=torch.uint8)  # aligned, unlike a bytearray
        with self.path.open("rb", buffering=0) as file:
            file.seek(entry.start)
            view, done = memoryview(data.numpy().data), 0
            while done < entry.nbytes:
                count = file.readinto(view[done:])
                if not count:
                    raise CheckpointError(f"{self.path}: ends inside tensor '{name}'. Download it again.")
                done += count
        return data.view(entry.dtype).view(entry.shape)


def _entries(header: dict[str, dict[str, Any]], base: int, size: int) -> dict[str, Entry]:
    entries = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        kind, shape = str(about["dtype"]), tuple(int(extent) for extent in about["shape"])
        start, stop = (int(offset) for offset in about["data_offsets"])
        if kind not in DTYPES:
            raise ValueError(f"tensor '{name}' has dtype {kind}, which prunus cannot hold")
        count = math.prod(shape)
        if min(shape, default=0) < 0 or not 0 <= start <= stop or stop - start != count * DTYPES[kind].itemsize:
            raise ValueError(f"tensor '{name}' of shape {list(shape)} and dtype {kind} does not fill {stop - start} bytes")
        if base + stop > size:
            raise ValueError(f"tensor '{name}' ends at byte {base + stop}, the file has {size}")
        entries[name] = Entry(name, DTYPES[kind], shape, base + start, base + stop)
    return entries


def header_of(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, int]:
    """Header bytes (length prefix included) of a file with these tensors in this order, and the data's length."""
    names = {dtype: kind for kind, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        length = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    body = json.dumps(header, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body)) + body, offset


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes as a file stores them."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A file of these tensors, on the disk when this returns."""
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    file = lay_down(path, shapes, metadata)
    for name, tensor in tensors.items():
        write_at(path, file.entries[name].start, raw_bytes(tensor))
    sync(path)


def lay_down(path: Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
             metadata: Mapping[str, str] | None = None) -> SafetensorsFile:  # fmt: skip
    """A file for these tensors at its full size, so that a full disk shows at once; what is in them is to be written."""
    return plain_file(path, header_of(tensors, metadata)[0][8:])


def plain_file(path: Path, header: bytes) -> SafetensorsFile:
    """A file at its full size with this header (its length prefix aside); what is in its tensors is to be written."""
    entries = _entries(json.loads(header), 8 + len(header), sys.maxsize)
    with path.open("wb") as file:
        reserve(file, max((entry.stop for entry in entries.values()), default=8 + len(header)))
        file.write(struct.pack("<Q", len(header)) + header)
    return SafetensorsFile.open(path)


def write_at(path: Path, start: int, data: memoryview | bytes) -> None:
    """Write bytes at an offset of an existing file."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done : done + (64 << 20)], start + done)
    finally:
        os.close(descriptor)
