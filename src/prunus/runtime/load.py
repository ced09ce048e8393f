"""A Transformers model whose packed layers stay packed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.packed_file import PackedFile
from ..checkpoint.source import Checkpoint
from ..core.errors import CheckpointError
from ..core.progress import Progress
from ..models.names import NameMap
from ..models.sites import is_transposed_linear
from ..models.skeleton import build_skeleton, load_config
from ..storage.dense import Dense
from ..storage.packed import PackedWeight
from ..storage.values import Values
from .arranged import arrange
from .library import Kernels, kernels
from .linear import PackedLinear


@dataclass(frozen=True)
class Loaded:
    """A model, and of each of its linear layers how it runs: its layout, or ``dense: why``."""

    model: Any
    layers: dict[str, str]

    @property
    def packed(self) -> int:
        """Layers that run as they are packed."""
        return sum(not how.startswith("dense:") for how in self.layers.values())


def load_packed(folder: Path, progress: Progress, trust_remote_code: bool = False, unpacked: bool = False) -> Loaded:
    """The causal language model of a checkpoint, packed or not, in fp32 on the CPU, in eval mode.

    Packed linear layers become :class:`PackedLinear` where there are kernels for how they are packed; the others, and all
    where there are no kernels, are unpacked.

    Raises:
        CheckpointError: if the checkpoint is incomplete or damaged.
    """
    checkpoint = Checkpoint.open(folder)
    model: Any = build_skeleton(load_config(folder, trust_remote_code), torch.float32, trust_remote_code)
    names = NameMap(model, checkpoint.names)
    names.settle_ties(checkpoint.read)
    missing = names.missing()
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of the model's parameters are not there, {missing[0]} among them.")
    layers: dict[str, str] = {}
    found = None if unpacked else kernels()
    progress.start("Loading", len(names.sources))
    packed = dict(_packed_layers(checkpoint, names))
    plain = [name for name in names.sources if name.removesuffix(".weight") not in packed]
    for parameter in plain:
        names.load([parameter], checkpoint.read, torch.device("cpu"))
        progress.step(parameter)
    for path, disk in packed.items():
        home = checkpoint.home[disk]
        assert isinstance(home, PackedFile)
        weight = home.packed(disk)
        layers[path] = place(model, path, weight, found)
        if layers[path].startswith("dense:"):
            names.load([f"{path}.weight"], checkpoint.read, torch.device("cpu"))
        progress.step(path)
    names.tie()
    head = _head_values(folder)
    if head is not None and found is not None:
        _code_head(model, head, found, layers)
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            layers.setdefault(path, "dense: stored so")
    return Loaded(model.eval(), layers)


def place(model: Any, path: str, weight: PackedWeight, found: Kernels | None) -> str:
    """Let a packed weight take the place of a linear layer in the model; how it runs, or ``dense:`` and why it cannot."""
    if found is None:
        return "dense: no kernels"
    arranged = arrange(weight)
    if arranged is None:
        return f"dense: no kernel for {weight.values.kind} values in groups of {weight.values.group}"
    module = model.get_submodule(path)
    rows, cols = _shape(module)
    if (arranged.rows, arranged.cols) != (rows, cols):
        raise CheckpointError(
            f"'{path}' is packed as {arranged.rows}×{arranged.cols}, the config asks for {rows}×{cols}: config.json and "
            "the weights belong to different models. Download both again."
        )
    swap(model, path, PackedLinear(arranged, None if module.bias is None else module.bias.detach(), found))
    return arranged.layout


def swap(model: Any, path: str, module: nn.Module) -> None:
    """Put a module where the model has another."""
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)


def _shape(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    rows, cols = weight.shape[::-1] if is_transposed_linear(module) else weight.shape
    return int(rows), int(cols)


def _packed_layers(checkpoint: Checkpoint, names: NameMap) -> Iterator[tuple[str, str]]:
    """Linear layers whose weight is one packed tensor, with its name on disk."""
    for parameter, disk in names.sources.items():
        path, _, key = parameter.rpartition(".")
        module = names.model.get_submodule(path)
        if (
            key != "weight"
            or parameter in names.converted
            or not (isinstance(module, nn.Linear) or is_transposed_linear(module))
        ):
            continue
        home = checkpoint.home[disk[0]]
        if isinstance(home, PackedFile) and disk[0] in home.weights:
            yield path, disk[0]


def _head_values(folder: Path) -> str | None:
    """What codes a packed checkpoint wants its head in."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about = config.get("quantization_config") or {}
    return about.get("head") if about.get("quant_method") == "prunus" else None


def _code_head(model: Any, kind: str, found: Kernels, layers: dict[str, str]) -> None:
    """A head that shares its tensor with the embedding gets codes of its own, which no file has to hold."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):  # packed in the file
        return
    path = next(path for path, module in model.named_modules() if module is head)
    weight = head.weight.detach()
    group = 64 if kind == "int4" and weight.shape[1] % 64 == 0 else 0
    layers[path] = place(model, path, PackedWeight.of(weight, Dense(), Values(kind, group)), found)
