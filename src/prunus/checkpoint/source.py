"""A checkpoint folder: config, tokenizer and the tensors of its safetensors shards, found by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ..core.errors import CheckpointError
from .packed_file import PREFIX, PackedFile, open_shard
from .safetensors_file import Entry, SafetensorsFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
_SAMPLES, _SAMPLE_BYTES = 16, 4096


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: every shard's header is parsed and checked, no tensor is in memory."""

    folder: Path
    shards: tuple[SafetensorsFile | PackedFile, ...]

    @classmethod
    def open(cls, folder: Path, bare: bool = False) -> Checkpoint:
        """Open a folder with ``config.json`` and safetensors shards; where weights may be ``bare``, a module's state dict,
        without a config.

        Raises:
            CheckpointError: if something is missing, corrupt, or only pickled weights are there.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder. Give a checkpoint folder, a .gguf file or a hub id.")
        if not bare and not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"{folder}: no config.json there, which every Hugging Face checkpoint has. Give its folder."
            )
        shards = tuple(open_shard(folder / name) for name in _shard_names(folder))
        checkpoint = cls(folder, shards)
        checkpoint._check_index()
        return checkpoint

    @property
    def bare(self) -> bool:
        """Whether there are weights alone."""
        return not (self.folder / CONFIG).is_file()

    @cached_property
    def home(self) -> dict[str, SafetensorsFile | PackedFile]:
        """The shard of each tensor."""
        return {name: shard for shard in self.shards for name in shard.entries}

    @property
    def index(self) -> Path | None:
        """The index of a sharded checkpoint."""
        return None if (self.folder / self._named(SINGLE)).is_file() else self.folder / self._named(INDEX)

    def _named(self, name: str) -> str:
        """What a file of this name is called here."""
        return f"{PREFIX}{name}" if self.packed else name

    @property
    def names(self) -> list[str]:
        return list(self.home)

    def entry(self, name: str) -> Entry:
        """Dtype, shape and place of one tensor."""
        return self.home[name].entries[name]

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype."""
        return self.home[name].read(name)

    @property
    def packed(self) -> bool:
        """Whether weights in it are packed."""
        return any(isinstance(shard, PackedFile) for shard in self.shards)

    def require_plain(self) -> None:
        """Raise CheckpointError if weights are packed: what only copies or mirrors bytes needs them as they were."""
        if self.packed:
            raise CheckpointError(f"{self.folder} is packed. Unpack it first: prunus unpack {self.folder} -o FOLDER")

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)

    def extras(self) -> Iterator[Path]:
        """The other files that make a checkpoint usable: config, tokenizer, generation config, licence, code."""
        kinds = {".json", ".txt", ".model", ".jinja", ".py", ".md", ".tiktoken", ".spm", ".bpe"}
        skip = {INDEX, "README.md", "prunus.json"}
        for path in sorted(self.folder.iterdir()):
            known = path.suffix in kinds or path.name.startswith("LICENSE")
            if path.is_file() and known and path.name not in skip and not path.name.endswith(".index.json"):
                yield path
        yield from sorted((self.folder / "additional_chat_templates").glob("*.jinja"))

    def copy_extras(self, folder: Path) -> None:
        """Copy the :meth:`extras` to another folder, unchanged."""
        for path in self.extras():
            place = folder / path.relative_to(self.folder)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over config, headers, sizes and evenly spaced samples of the bytes; cheap at any size."""
        digest = hashlib.sha256((self.folder / CONFIG).read_bytes())
        for shard in self.shards:
            digest.update(shard.path.name.encode() + shard.header + str(shard.size).encode())
            with shard.path.open("rb") as file:
                for k in range(_SAMPLES):
                    file.seek(len(shard.header) + k * max(0, shard.size - len(shard.header)) // _SAMPLES)
                    digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    def _check_index(self) -> None:
        if self.index is None:
            return
        weight_map = json.loads(self.index.read_text())["weight_map"]
        named = {name: self._named(file) for name, file in weight_map.items()}
        wrong = [name for name, file in named.items() if name not in self.home or self.home[name].path.name != file]
        extra = [name for name in self.home if name not in weight_map]
        if wrong or extra:
            faults = [
                f"{len(names)} tensors {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for what, names in (("are not where it says", wrong), ("are missing from it", extra))
                if names
            ]
            raise CheckpointError(
                f"{self.index} and the shards disagree: {', '.join(faults)}. Download the checkpoint again."
            )


def _shard_names(folder: Path) -> list[str]:
    prefix = PREFIX if any((folder / f"{PREFIX}{name}").is_file() for name in (SINGLE, INDEX)) else ""
    single, index = f"{prefix}{SINGLE}", folder / f"{prefix}{INDEX}"
    if (folder / single).is_file():
        return [single]  # as transformers does: an index beside it is not looked at
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: corrupt index ({error}). Download it again.") from error
        if not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{index}: corrupt index (a shard's name is no text). Download it again.")
        names = [f"{prefix}{name}" for name in names]
        absent = [name for name in names if "/" in name or not (folder / name).is_file()]
        if absent or not names:
            listed = ", ".join(absent[:3])
            raise CheckpointError(f"{folder}: {len(absent)} of {len(names)} shards are missing ({listed}). Download them.")
        return names
    pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickled:
        raise CheckpointError(
            f"{folder}: only pickled weights are there ({', '.join(pickled[:3])}). Unpickling runs code, so prunus does "
            "not do it. Convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes safetensors."
        )
    raise CheckpointError(
        f"{folder}: neither {INDEX} nor {SINGLE} is there. A model that is only pickled has to be converted first."
    )
