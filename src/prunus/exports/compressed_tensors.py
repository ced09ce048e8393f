"""compressed-tensors: a quantised checkpoint in the packed layout that serving engines read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint.compressed_tensors import BITS, packed_layer, quantization_config, unpack
from ..checkpoint.levels import FILE, StoredLevels
from ..checkpoint.packed_file import PackedFile
from ..checkpoint.safetensors_file import SafetensorsFile, lay_down, raw_bytes, write_at
from ..checkpoint.source import INDEX, Checkpoint
from ..core.errors import CheckpointError, ProofError, RecipeError, UnsupportedModelError
from ..core.progress import Progress
from ..core.site import Site
from ..measure.memory import available_memory_bytes
from ..models.reload import load_whole, reload_bytes
from ..stream.evaluate import open_source
from ..stream.sources import CheckpointSource
from .opened import real_ids, tokenizer_or_none
from .written import Check, Request, Written, compared


def write(request: Request, place: Path, progress: Progress) -> Written:
    """Write a checkpoint that was pruned or quantised onto a grid in the compressed-tensors layout ``pack-quantized``.

    Every packed layer is unpacked again and held against the plain weights, bit for bit; and Transformers loads it, where
    compressed-tensors is installed. Zeros are stored as codes: the
    layout has no sparsity.

    Raises:
        RecipeError: if a dtype is asked for: codes are those of the grid.
        UnsupportedModelError: if weights on the grid are no plain linear layers, or their codes are not of 4 or 8 bits.
        CheckpointError: if the levels are missing, damaged, or not those of the weights.
        ProofError: if a packed layer does not unpack to the plain weights.
    """
    if request.dtype != "auto":
        raise RecipeError([f"compressed-tensors takes the codes of the model's grid, not --dtype {request.dtype}"])
    source = open_source(request.folder, torch.float32, torch.device("cpu"), request.trust_remote_code)
    source.checkpoint.require_plain()
    levels = StoredLevels.open(request.folder)
    layers = _layers(source, levels)
    size = _write(source, levels, layers, place, progress)
    before = sum(entry.nbytes for shard in source.checkpoint.shards for entry in shard.entries.values())
    checks, notes = _loaded(request, place, source, levels)
    return Written("compressed-tensors pack-quantized", len(layers), before, size, checks, notes)


def _loaded(
    request: Request, place: Path, source: CheckpointSource, levels: StoredLevels
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """What Transformers makes of the packed checkpoint beside the plain one, in the dtype that they are stored in; or why
    it was not asked: every layer was unpacked already."""
    needed = 2 * reload_bytes(source.checkpoint)
    if find_spec("compressed_tensors") is None:
        return (), ("Not loaded by Transformers as well, which takes pip install compressed-tensors.",)
    if not levels.grid["symmetric"]:
        return (), ("Not loaded by Transformers as well: it refuses zero points that are packed, as the layout has them.",)
    if source.names.converted:
        return (), (
            "Not loaded by Transformers as well: it stacks this model's experts, which it cannot do of packed ones.",
        )
    if needed > available_memory_bytes():
        return (), (f"Not loaded by Transformers as well, which takes {needed / 1e9:.1f} GB of memory.",)
    ids = real_ids(source.config, tokenizer_or_none(request))
    logits = []
    for folder in (request.folder, place):
        try:
            model, _ = load_whole(folder, trust_remote_code=request.trust_remote_code)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise ProofError(f"Transformers does not load what was packed ({error}). Nothing was written.") from error
        with torch.inference_mode():
            logits.append(model(input_ids=ids, use_cache=False).logits.float())
    tolerance = 1e-4 if model.dtype is torch.float32 else 2**-6
    return (compared("Transformers with compressed-tensors", logits[0], logits[1], tolerance),), ()


def _layers(source: CheckpointSource, levels: StoredLevels) -> dict[str, Site]:
    """The Sites on the grid by the name of their tensor on disk."""
    if levels.grid["name"] != "int":
        raise UnsupportedModelError(
            f"a grid of the kind {levels.grid['name']}: compressed-tensors is written of int alone."
        )
    if levels.grid["bits"] not in BITS:
        raise UnsupportedModelError(
            f"codes of {levels.grid['bits']} bits: engines that read compressed-tensors have kernels for "
            f"{' and '.join(map(str, BITS))}. Quantise with --grid int:bits=4."
        )
    places = [*source.found, source.outside]
    sites = [site for found in places for site in found.sites]
    sites += [site for found in places for site, _ in found.on_request.values()]
    found = {}
    for site in sites:
        if site.parameter not in levels.scales:
            continue
        module = source.model.get_submodule(site.parameter.rpartition(".")[0])
        disk = source.names.sources[site.parameter]
        if not isinstance(module, nn.Linear) or len(disk) != 1 or source.checkpoint.entry(disk[0]).shape != site.shape[1:]:
            raise UnsupportedModelError(
                f"{site.name}: {type(module).__name__} is no plain linear layer on disk, and compressed-tensors holds no "
                "other. Leave it out with --exclude when pruning, or serve the plain checkpoint."
            )
        found[disk[0]] = site
    strange = sorted(levels.scales.keys() - {site.parameter for site in found.values()})
    if strange or not found:
        raise CheckpointError(
            f"{source.checkpoint.folder}: {FILE} is of another model ({', '.join(strange[:3]) or 'no layers'}). "
            "Prune the model anew."
        )
    return found


def _write(
    source: CheckpointSource, levels: StoredLevels, layers: dict[str, Site], folder: Path, progress: Progress
) -> int:
    """All files of the packed checkpoint; the bytes of its tensors."""
    checkpoint, size = source.checkpoint, 0
    weight_map: dict[str, str] = {}
    progress.start("Packing", len(checkpoint.names))
    files = [lay_down(folder / shard.path.name, _shapes(shard, levels, layers)) for shard in checkpoint.shards]
    for shard, file in zip(checkpoint.shards, files, strict=True):
        for name in shard.entries:
            tensors = {name: shard.read(name)}
            if name in layers:
                made = _packed(levels, layers[name], tensors[name])
                tensors = {_beside(name, kind): tensor for kind, tensor in made.items()}
            for written, tensor in tensors.items():
                write_at(file.path, file.entries[written].start, raw_bytes(tensor))
            progress.step()
        size += sum(entry.nbytes for entry in file.entries.values())
        weight_map |= dict.fromkeys(file.entries, file.path.name)
    if checkpoint.index is not None:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2))
    _write_rest(source, levels, layers, folder)
    return size


def _shapes(
    shard: SafetensorsFile | PackedFile, levels: StoredLevels, layers: Mapping[str, Site]
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """What a shard's packed copy holds: layers are packed without their values to see."""
    found = {}
    for name, entry in shard.entries.items():
        if name not in layers:
            found[name] = (entry.dtype, entry.shape)
            continue
        site = layers[name]
        scales = levels.scales[site.parameter][0].to("meta", entry.dtype)
        zeros = levels.zeros[site.parameter][0].to("meta") if site.parameter in levels.zeros else None
        made = packed_layer(torch.empty(site.rows, site.cols, device="meta"), scales, zeros, levels.grid["bits"])
        found |= {_beside(name, kind): (tensor.dtype, tuple(tensor.shape)) for kind, tensor in made.items()}
    return found


def _beside(name: str, kind: str) -> str:
    """The name of another tensor of the same module."""
    return f"{name.rpartition('.')[0]}.{kind}"


def _packed(levels: StoredLevels, site: Site, weight: Tensor) -> dict[str, Tensor]:
    """A layer's tensors, which give back exactly the plain weight."""
    grid, parameter = levels.grid, site.parameter
    lowest = -(1 << grid["bits"] - 1) if grid["symmetric"] else 0
    codes = levels.codes(parameter, weight.unsqueeze(0))[0] - lowest
    scales = levels.scales[parameter][0].to(weight.dtype)
    zeros = levels.zeros[parameter][0] if parameter in levels.zeros else None
    made = packed_layer(codes, scales, zeros, grid["bits"])
    centre = -lowest if zeros is None else zeros.float().repeat_interleave(weight.shape[1] // zeros.shape[1], dim=1)
    wide = scales.repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
    again = (unpack(made["weight_packed"], grid["bits"], weight.shape[1]) - centre).to(weight.dtype) * wide
    if not torch.equal(again, weight):
        raise ProofError(f"{site.name}: the packed weights do not unpack to the plain ones. Please report it.")
    return made


def _plain_layers(source: CheckpointSource, layers: dict[str, Site]) -> list[str]:
    """Linear layers that are not packed, by their names in the model and, of stacked experts, on disk."""
    modules = dict(source.model.named_modules())
    packed = {site.parameter.rpartition(".")[0] for site in layers.values()}
    linears = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    matrices = {
        name.removesuffix(".weight")
        for name in source.checkpoint.names
        if name.endswith(".weight") and name not in layers and len(source.checkpoint.entry(name).shape) == 2
    }
    tables = {name for name, module in modules.items() if isinstance(module, nn.Embedding)}
    return sorted((linears - packed) | (matrices - tables))


def _write_rest(source: CheckpointSource, levels: StoredLevels, layers: dict[str, Site], folder: Path) -> None:
    """Config, tokenizer and the like."""
    checkpoint: Checkpoint = source.checkpoint
    checkpoint.copy_extras(folder)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantization_config(levels.grid, _plain_layers(source, layers))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
