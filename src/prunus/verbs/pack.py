"""pack: a checkpoint whose zeros cost nothing on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoint.disk import write_atomically
from ..checkpoint.levels import FILE, StoredLevels
from ..checkpoint.new_output import new_output
from ..checkpoint.packed_file import PREFIX, PackedFile, PackedWriter, open_shard
from ..checkpoint.replace import check_free, check_replaceable
from ..checkpoint.source import CONFIG, INDEX, SINGLE, Checkpoint
from ..core import registry
from ..core.coder import Coder
from ..core.errors import NumericalError, ProofError, RecipeError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.mask import PRUNED
from ..core.progress import Progress, Silent
from ..core.registry import Role
from ..core.site import Layout, Site
from ..core.storage import StorageFormat
from ..models.locate import locate
from ..models.skeleton import PLAIN_CONFIG
from ..report.record import headed
from ..storage.dense import Dense
from ..storage.packed import PackedWeight, smallest_storage
from ..storage.stages import Stages
from ..storage.values import CODES, FLOATS, SHARED, Values
from ..stream.evaluate import open_source
from ..stream.sources import CheckpointSource


@dataclass(frozen=True)
class PackedLayer:
    """One packed weight: the fraction of zeros, how it is stored, its bytes, and what arithmetic says they should be.

    ``error`` is ‖W − Ŵ‖ / ‖W‖: 0 where values are stored as they were. ``stages`` are those of shared weights.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    storage: str
    values: str
    coder: str
    nbytes: int
    planned_bytes: float
    error: float
    stages: Stages | None


@dataclass(frozen=True)
class Packed:
    """What was written; bytes are those of all files with weights, ``planned_bytes`` what arithmetic says.

    ``stages`` are those of all layers with shared weights together.
    """

    model: str
    output: str
    layers: list[PackedLayer] = field(repr=False)
    plain_bytes: int
    packed_bytes: int
    planned_bytes: int
    stages: Stages | None
    seconds: float


@dataclass(frozen=True)
class _Choice:
    """What was asked for."""

    storage: StorageFormat | None
    values: str
    coder: Coder
    group: int
    head: str | None

    @classmethod
    def of(cls, storage: str, values: str, coder: str, group: int, head: str | None) -> _Choice:
        faults: list[str] = []
        where = None if storage == "auto" else _made(registry.storage, storage, faults)
        how = _made(registry.coder, coder, faults)
        kinds = {**FLOATS, **CODES, **SHARED}
        if values not in {"auto", *kinds}:
            faults.append(f"values are auto, {', '.join(kinds)}, not '{values}'")
        if head is not None and head not in CODES:
            faults.append(f"the head may be {' or '.join(CODES)}, not '{head}'")
        if group < 0:
            faults.append(f"a group of {group} columns: at least 1, or 0 for the whole row")
        if faults or how is None:
            raise RecipeError(faults)
        how.require()
        return cls(where, values, how, group, head)


def check_packing(storage: str = "auto", values: str = "auto", coder: str = "fixed", group: int = 64) -> None:
    """Raise RecipeError or MissingLibraryError if :func:`pack` could not be asked for that."""
    _Choice.of(storage, values, coder, group, None)


def _made(axis: registry.Registry[Role], spec: str, faults: list[str]) -> Role | None:
    """The member of an axis that ``spec`` spells; None, and a fault, where there is none."""
    try:
        return registry.make(axis, spec)
    except ValueError as error:
        faults.append(str(error))
        return None


def pack(model: str | Path, output: str | Path, *, storage: str = "auto", values: str = "auto", coder: str = "fixed",
         group: int = 64, head: str | None = None, overwrite: bool = False, trust_remote_code: bool = False,
         progress: Progress | None = None) -> Packed:  # fmt: skip
    """Write a pruned or quantised checkpoint so that its zeros take no room; ``load`` runs it, ``unpack`` undoes it.

    ``storage`` is how positions are stored (``auto``: the smallest for each layer), ``values`` what of the survivors:
    ``auto`` is the dtype they have, or the codes of a checkpoint that lies on a grid; ``int8`` and ``int4`` quantise, dense
    layers too, with a scale for ``group`` columns of a row (0, and int8: for the whole row); ``shared5`` (2 to 8) lets the
    weights of a layer share 2^5 values. ``coder`` is how codes, and gaps between values, become bytes. ``head`` is what
    ``values`` is, int8 or int4, for the language-model head. Every layer is read back from the written file and unpacked:
    to the same bytes, unless values were rounded. Of a folder without a config, a module's state dict in safetensors, every
    tensor of two dimensions and more is a matrix; ``unpack`` gives the state dict back.

    Raises:
        RecipeError: if a setting has a fault.
        MissingLibraryError: if the ``coder`` takes a library that is not installed.
        UnsupportedModelError: if a layer's zeros do not fit the ``storage`` asked for, or nothing is there to be packed.
        NumericalError: if a weight that is to become codes is not finite.
        CheckpointError: if the model or its levels cannot be read.
        OutputError: if ``output`` exists and ``overwrite`` was not asked for, it is no checkpoint that could be
            replaced, or it cannot be written.
        ProofError: if a packed layer does not unpack to what it was.
    """
    start, reporter, target = perf_counter(), progress or Silent(), Path(output).expanduser()
    choice = _Choice.of(storage, values, coder, group, head)
    check_free(target, overwrite)
    folder = locate(model)
    check_replaceable(target, folder, model)
    checkpoint, matrices = _opened(folder, trust_remote_code)
    try:
        with new_output(target, folder, model, "prunus-pack", overwrite) as place:
            found = _Packing(checkpoint, matrices, choice, reporter).write(place, str(model), str(target), start)
    finally:
        reporter.close()
    return found


class _Matrix(NamedTuple):
    """What a tensor on disk is of: a Site, maybe the head's, and whether the whole Site is under its name."""

    site: Site
    head: bool = False
    whole: bool = True

    @property
    def transposed(self) -> bool:
        """Whether it is stored so."""
        return self.site.layout.transposed and self.whole

    def of(self, tensor: Tensor) -> Tensor:
        """``[rows cols]`` of the tensor; a convolution has a row an output channel."""
        if self.site.layout.kernel:
            return tensor.flatten(1)
        return (tensor.transpose(-1, -2) if self.transposed else tensor).reshape(
            -1, tensor.shape[-2 if self.transposed else -1]
        )


class _Packing:
    """One run: which tensors are packed, and how."""

    def __init__(self, checkpoint: Checkpoint, sites: Mapping[str, _Matrix], choice: _Choice, progress: Progress) -> None:
        self.checkpoint, self.sites, self.choice, self.progress = checkpoint, sites, choice, progress
        coded = choice.values in ("auto", *CODES) and (self.checkpoint.folder / FILE).is_file()
        self.levels = StoredLevels.open(self.checkpoint.folder) if coded else None
        if self.levels and (self.levels.grid["name"] != "int" or not self.levels.grid["symmetric"]):
            raise UnsupportedModelError(
                f"{self.checkpoint.folder} lies on a grid that is not symmetric, whose codes cannot be packed. Quantise "
                "with --grid int:symmetric=true, or give --values float32 to pack the weights as they are."
            )

    def write(self, folder: Path, model: str, output: str, start: float) -> Packed:
        """All files; every packed layer read back."""
        checkpoint, planned = self.checkpoint, 0.0
        layers: list[PackedLayer] = []
        self.progress.start("Packing, reading back", 2 * len(checkpoint.names))
        for shard in checkpoint.shards:
            path = folder / f"{PREFIX}{shard.path.name}"
            writer = PackedWriter(path, shard)
            for name, entry in shard.entries.items():
                tensor = shard.read(name)
                packed = self._packed(name, tensor)
                if packed is None:
                    writer.put(name, tensor)
                    planned += entry.nbytes
                else:
                    writer.put_packed(name, packed, entry.shape, self.sites[name].transposed)
                    planned += packed.planned_bytes
                self.progress.step(name)
            writer.finish()
            layers += self._proved(path, shard)
        if not layers:
            raise UnsupportedModelError(
                f"{checkpoint.folder}: no layer has zeros (at least {PRUNED:.0%} of it) or lies on a grid, so there is "
                "nothing to pack. Prune it first, or quantise with --values int8."
            )
        self._write_rest(folder)
        size = sum(path.stat().st_size for path in folder.glob(f"{PREFIX}*.safetensors"))
        stages = [layer.stages for layer in layers if layer.stages is not None]
        together, seconds = Stages.together(stages) if stages else None, round(perf_counter() - start, 3)
        found = Packed(model, output, layers, checkpoint.nbytes, size, round(planned), together, seconds)
        write_atomically(folder / "prunus.json", json.dumps(_record(checkpoint, found), indent=2) + "\n")
        return found

    def _packed(self, name: str, tensor: Tensor) -> PackedWeight | None:
        """A tensor packed; None where it stays as it is."""
        stored = str(tensor.dtype).removeprefix("torch.")
        if name not in self.sites or stored not in FLOATS:
            return None
        matrix = self.sites[name]
        if matrix.head and self.choice.head is None:
            return None
        weight = matrix.of(tensor)
        sparsity = 1 - float(torch.count_nonzero(weight)) / weight.numel()
        kind = str(self.choice.head) if matrix.head else self.choice.values
        scales = self._scales(matrix, tensor, weight, kind)
        if kind == "auto":
            kind = stored if scales is None else self._narrowest()
        if sparsity < PRUNED and kind in FLOATS:
            return None
        values = self._values(kind, weight, scales)
        if values.coded and not all_finite(weight):
            raise NumericalError(f"{name} holds NaN or Inf, which no code stands for. Download the model or make it again.")
        coder = self.choice.coder
        storage = Dense() if sparsity < PRUNED else self.choice.storage or smallest_storage(weight, values, coder)
        try:
            return PackedWeight.of(weight, storage, values, scales, coder)
        except ValueError as error:
            raise UnsupportedModelError(
                f"{name}: {error}. Give another --storage or --values, or leave them to auto."
            ) from error

    def _values(self, kind: str, weight: Tensor, scales: Tensor | None) -> Values:
        cols = weight.shape[1]
        if kind not in CODES:
            return Values(kind)
        if scales is not None:
            return Values(kind, 0 if scales.shape[1] == 1 else cols // scales.shape[1])
        wanted = self.choice.group if kind == "int4" else 0
        return Values(kind, wanted if wanted and cols % wanted == 0 and wanted < cols else 0)

    def _narrowest(self) -> str:
        """The codes that hold those of the checkpoint's grid."""
        assert self.levels is not None
        return "int4" if self.levels.grid["bits"] <= CODES["int4"] else "int8"

    def _scales(self, matrix: _Matrix, tensor: Tensor, weight: Tensor, kind: str) -> Tensor | None:
        """The scales of a weight that lies on the checkpoint's grid, which is verified; None where codes are made anew."""
        site = matrix.site
        if self.levels is None or site.parameter not in self.levels.scales or CODES.get(kind, 8) < CODES[self._narrowest()]:
            return None
        if site.layout.stacked or not matrix.whole:
            raise UnsupportedModelError(
                f"{site.name}: experts on a grid cannot be packed as codes yet. Give --values {tensor.dtype} "
                "to pack the weights as they are.".replace("torch.", "")
            )
        self.levels.codes(site.parameter, weight.unsqueeze(0))
        return self.levels.scales[site.parameter][0].to(torch.bfloat16 if tensor.dtype is torch.bfloat16 else torch.float16)

    def _proved(self, path: Path, plain: Any) -> Iterator[PackedLayer]:
        """What was written, read back and unpacked."""
        file = open_shard(path)
        assert isinstance(file, PackedFile)
        for name in file.entries:
            self.progress.step(name)
            if name not in file.weights:
                continue
            packed, before, after = file.packed(name), plain.read(name), file.read(name)
            exact = not packed.values.coded and packed.values.kind == str(before.dtype).removeprefix("torch.")
            if exact and not torch.equal(_bytes(before), _bytes(after)):
                raise ProofError(f"{name}: what was packed does not unpack to the same bytes. Please report it.")
            lost, whole = (float(value.double().norm()) for value in (before.double() - after.double(), before))
            error = 0.0 if exact or not whole else lost / whole
            kept = int(torch.count_nonzero(after))
            stages = Stages.of(packed, kept) if packed.values.shared else None
            how = registry.storage.spec(packed.storage), registry.coder.spec(packed.coder)
            values = packed.values.kind + (f", group {packed.values.group}" if packed.values.group else "")
            yield PackedLayer(
                name, tuple(before.shape), 1 - kept / after.numel(), how[0], values, how[1], packed.nbytes,
                packed.planned_bytes, error, stages,
            )  # fmt: skip

    def _write_rest(self, folder: Path) -> None:
        """Config, tokenizer and the like; the config says that no one but prunus can read the weights."""
        self.checkpoint.copy_extras(folder)
        if self.checkpoint.index is not None:
            (folder / f"{PREFIX}{INDEX}").write_bytes(self.checkpoint.index.read_bytes())
        if self.checkpoint.bare:
            return
        plain = (self.checkpoint.folder / CONFIG).read_bytes()
        (folder / PLAIN_CONFIG).write_bytes(plain)
        config = json.loads(plain)
        config["quantization_config"] = {"quant_method": "prunus", "head": self.choice.head}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _opened(folder: Path, trust_remote_code: bool) -> tuple[Checkpoint, dict[str, _Matrix]]:
    """A checkpoint, and the matrices in it by their names on disk."""
    if (folder / CONFIG).is_file() or not (folder / SINGLE).is_file():
        source = open_source(folder, torch.float32, torch.device("cpu"), trust_remote_code)
        source.checkpoint.require_plain()
        return source.checkpoint, dict(_matrices(source))
    checkpoint = Checkpoint.open(folder, bare=True)
    checkpoint.require_plain()
    entries = {name: checkpoint.entry(name) for name in checkpoint.names}
    found = {}
    for name, entry in entries.items():
        if sum(extent > 1 for extent in entry.shape) > 1 and entry.dtype.is_floating_point:
            rows, *rest = entry.shape
            layout = Layout(kernel=tuple(rest[1:]))
            found[name] = _Matrix(Site(name, name, (1, rows, math.prod(rest)), entry.dtype, layout=layout))
    return checkpoint, found


def _matrices(source: CheckpointSource) -> Iterator[tuple[str, _Matrix]]:
    """The names on disk of what may be packed, and what it is."""
    head = source.model.get_output_embeddings()
    for found in [*source.found, source.outside]:
        for site in [*found.sites, *(site for site, _ in found.on_request.values())]:
            module = source.model.get_submodule(site.parameter.rpartition(".")[0])
            if isinstance(module, nn.Embedding):
                continue
            names = source.names.sources[site.parameter]
            for name in names:
                yield name, _Matrix(site, module is head, len(names) == 1)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _record(checkpoint: Checkpoint, found: Packed) -> Mapping[str, Any]:
    from ..measure.environment import environment

    source = checkpoint.folder / "prunus.json"
    before = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else None
    return {**headed("pack"), **asdict(found), "environment": environment(), "source": before}
