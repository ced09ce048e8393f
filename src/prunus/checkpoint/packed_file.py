"""A safetensors file with packed weights: what it holds is checked before it is believed.

A packed weight ``NAME`` is in the file as ``NAME.PART`` tensors; ``__metadata__`` says under ``prunus`` how each is packed,
the header that the file had before, and a digest of every tensor, and under ``prunus_digest`` a digest of all that and of
the header. docs/packed-format.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from ..storage.packed import PackedWeight
from .disk import reserve, sync
from .safetensors_file import Entry, SafetensorsFile, header_of, raw_bytes, write_at

KEY, DIGEST = "prunus", "prunus_digest"
VERSION = 1
PREFIX = "packed-"
"""What is put before the names of files and index, so that a program which cannot read them finds none."""
_HEX = 32


@dataclass(frozen=True)
class PackedFile:
    """An opened packed file; ``entries`` are the tensors that it unpacks to, with the places of their first parts."""

    inner: SafetensorsFile
    entries: dict[str, Entry]
    weights: dict[str, dict[str, Any]]
    digests: dict[str, str]
    plain_header: str

    @property
    def path(self) -> Path:
        return self.inner.path

    @property
    def header(self) -> bytes:
        return self.inner.header

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.inner.size

    @property
    def metadata(self) -> dict[str, str]:
        return self.inner.metadata

    @classmethod
    def open(cls, file: SafetensorsFile) -> PackedFile:
        """Read what the header says of its packed weights.

        Raises:
            CheckpointError: if it was damaged, or a later prunus wrote it.
        """
        metadata = file.metadata
        if metadata.get(DIGEST) != _digest_of(file.entries, metadata[KEY]):
            raise CheckpointError(f"{file.path}: its header is damaged (it does not have the digest it names). {_ANEW}")
        about = json.loads(metadata[KEY])
        if about["version"] != VERSION:
            raise CheckpointError(
                f"{file.path}: packed in version {about['version']} of the format, and this prunus reads {VERSION}. "
                "Upgrade prunus."
            )
        entries = {}
        for name, weight in about["weights"].items():
            shape, matrix = (tuple(int(extent) for extent in weight[key]) for key in ("tensor", "shape"))
            dtype = getattr(torch, weight["dtype"])
            if math.prod(shape) != math.prod(matrix):
                raise ValueError(f"'{name}' is said to be {list(shape)}, and packed as {list(matrix)}")
            entries[name] = Entry(name, dtype, shape, 0, dtype.itemsize * torch.Size(shape).numel())
        taken = {f"{name}.{part}" for name, weight in about["weights"].items() for part in weight["parts"]}
        entries |= {name: entry for name, entry in file.entries.items() if name not in taken}
        order = [name for name in json.loads(about["header"]) if name != "__metadata__"]
        return cls(file, {name: entries[name] for name in order}, about["weights"], about["digests"], about["header"])

    @cached_property
    def stored_bytes(self) -> dict[str, int]:
        """Bytes in the file of each tensor."""
        return {
            name: sum(self.inner.entries[f"{name}.{part}"].nbytes for part in self.weights[name]["parts"])
            if name in self.weights
            else entry.nbytes
            for name, entry in self.entries.items()
        }

    def packed(self, name: str) -> PackedWeight:
        """A packed weight as it is stored, looked through.

        Raises:
            CheckpointError: if its tensors are damaged.
        """
        with self._refused(name):
            found = self._opened(name)
            found.check()
            return found

    def read(self, name: str) -> Tensor:
        """One tensor as it was before it was packed."""
        if name not in self.weights:
            return self._checked(name)
        about = self.weights[name]
        with self._refused(name):
            weight = self._opened(name).unpack()
        shape = about["tensor"]
        if not about["transposed"]:
            return weight.view(shape)
        return weight.view(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2).contiguous()

    def _opened(self, name: str) -> PackedWeight:
        about = self.weights[name]
        return PackedWeight.from_parts(about, {part: self._checked(f"{name}.{part}") for part in about["parts"]})

    @contextmanager
    def _refused(self, name: str) -> Iterator[None]:
        """What cannot be unpacked is told with the file's name."""
        try:
            yield
        except ValueError as error:
            raise CheckpointError(f"{self.path}: '{name}' cannot be unpacked: {error}. {_ANEW}") from error

    def _checked(self, name: str) -> Tensor:
        tensor = self.inner.read(name)
        if digest(raw_bytes(tensor)) != self.digests.get(name):
            raise CheckpointError(
                f"{self.path}: tensor '{name}' is damaged (its bytes do not have the digest named). {_ANEW}"
            )
        return tensor


_ANEW = "Download or pack it again."


def open_shard(path: Path) -> SafetensorsFile | PackedFile:
    """A shard, packed or not."""
    file = SafetensorsFile.open(path)
    if KEY not in file.metadata:
        return file
    try:
        return PackedFile.open(file)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: what its header says of packed weights cannot be read ({error!r}). {_ANEW}"
        ) from error


def digest(data: memoryview | bytes) -> str:
    """The first 128 bits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:_HEX]


def _digest_of(entries: Mapping[str, Entry], about: str) -> str:
    """One digest of where all tensors lie and of what is said of them."""
    layout = [[entry.name, str(entry.dtype), list(entry.shape), entry.stop - entry.start] for entry in entries.values()]
    return digest(json.dumps([layout, about]).encode())


class PackedWriter:
    """Writes a packed file: tensors as they come, into a file of their own; then the header, and they behind it."""

    def __init__(self, path: Path, plain: SafetensorsFile | PackedFile) -> None:
        """``plain`` is the file that is packed."""
        self.path, self.plain = path, plain
        self.entries: dict[str, Entry] = {}
        self.weights: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, str] = {}
        self._body = path.with_suffix(".body")
        self._end = 0
        self._body.touch()

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor as it is."""
        data = raw_bytes(tensor)
        write_at(self._body, self._end, data)
        self.entries[name] = Entry(name, tensor.dtype, tuple(tensor.shape), self._end, self._end + len(data))
        self.digests[name] = digest(data)
        self._end += len(data)

    def put_packed(self, name: str, packed: PackedWeight, shape: tuple[int, ...], transposed: bool) -> None:
        """Write the parts of a weight that was a tensor of this shape."""
        about = {**packed.about(), "tensor": list(shape), "transposed": transposed, "parts": sorted(packed.parts)}
        self.weights[name] = about
        for part in about["parts"]:
            self.put(f"{name}.{part}", packed.parts[part])

    def finish(self) -> int:
        """Put header and tensors together, on the disk; the bytes of the file."""
        about = json.dumps({
            "version": VERSION, "weights": self.weights, "digests": self.digests, "header": self.plain.header[8:].decode(),
        }, separators=(",", ":"))  # fmt: skip
        shapes = {name: (entry.dtype, entry.shape) for name, entry in self.entries.items()}
        header, _ = header_of(shapes, {KEY: about, DIGEST: _digest_of(self.entries, about)})
        with self.path.open("wb") as file, self._body.open("rb") as body:
            reserve(file, len(header) + self._end)
            file.write(header)
            shutil.copyfileobj(body, file, 16 << 20)
        self._body.unlink()
        sync(self.path)
        return len(header) + self._end
