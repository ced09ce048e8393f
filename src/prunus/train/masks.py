"""Masks of a model, outside of it: by parameter, saved in bits, to and from those of torch.nn.utils.prune."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..checkpoint.disk import system_errors
from ..core.errors import CheckpointError, RecipeError
from ..models.modules import module_sites, unwrapped

_FORMAT = "prunus.masks"


@dataclass(frozen=True)
class Masks(Mapping[str, Tensor]):
    """Masks by the names of parameters, bool in their shapes, True = kept."""

    keep: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keep)

    def __len__(self) -> int:
        return len(self.keep)

    @classmethod
    def of(cls, model: nn.Module) -> Masks:
        """Where the weights of linear layers and convolutions are zero now; layers without a zero, or of nothing but zeros
        (a beginning, not a pruned layer), have no mask."""
        inner = unwrapped(model)
        found = {site.parameter: kept_of(inner.get_parameter(site.parameter)) for site in module_sites(inner).sites}
        return cls({name: keep for name, keep in found.items() if not keep.all()})

    @classmethod
    def from_torch(cls, model: nn.Module) -> Masks:
        """Take over the masks that torch.nn.utils.prune has put on a model: its weights become plain parameters again, with
        zeros, under the names that they had.

        Raises:
            RecipeError: if there are none.
        """
        found = {}
        for path, module in unwrapped(model).named_modules():
            names = [
                name.removesuffix("_mask") for name, _ in module.named_buffers(recurse=False) if name.endswith("_mask")
            ]
            for name in names:
                if f"{name}_orig" in module._parameters:
                    found[f"{path}.{name}".lstrip(".")] = module.get_buffer(f"{name}_mask").bool()
                    prune.remove(module, name)
        if not found:
            raise RecipeError([f"{type(model).__name__} has no masks of torch.nn.utils.prune"])
        return cls(found)

    def to_torch(self, model: nn.Module) -> None:
        """Put the masks on a model as torch.nn.utils.prune has them: ``weight_orig`` is trained, ``weight`` is computed.

        Raises:
            RecipeError: if the model has no such parameters, of other shapes, or several layers share one.
        """
        inner, fitting = unwrapped(model), self._fitting(model)
        owners = Counter(id(parameter) for _, parameter in inner.named_parameters(remove_duplicate=False))
        shared = [name for name in fitting if owners[id(inner.get_parameter(name))] > 1]
        if shared:
            raise RecipeError(
                [f"masks of '{name}': several layers share it, of which torch would mask one" for name in shared]
            )
        for name, mask in fitting.items():
            path, _, key = name.rpartition(".")
            prune.custom_from_mask(inner.get_submodule(path), key, mask)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Make them permanent: what they drop becomes zero.

        Raises:
            RecipeError: if the model has no such parameters, or of other shapes.
        """
        for name, mask in self._fitting(model).items():
            unwrapped(model).get_parameter(name).mul_(mask)

    def save(self, path: str | Path) -> None:
        """Write them to a safetensors file, a bit a weight, with a digest."""
        from safetensors.torch import save_file

        bits = {name: packed(mask) for name, mask in self.keep.items()}
        shapes = {name: list(mask.shape) for name, mask in self.keep.items()}
        about = json.dumps({"sha256": _digest(bits, shapes), "shapes": shapes}, sort_keys=True)
        place = Path(path)
        temporary = place.with_name(f"{place.name}.new")
        with system_errors():
            save_file(bits, temporary, metadata={_FORMAT: about})  # one entry: the order of several is left to chance
        temporary.replace(place)

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read a file that :meth:`save` wrote.

        Raises:
            CheckpointError: if it is none, or not what was written.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = (file.metadata() or {}).get(_FORMAT)
                bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: no readable masks ({' '.join(str(error).split())}).") from error
        if about is None:
            raise CheckpointError(f"{path}: no masks of prunus, which Masks.save writes.")
        told = json.loads(about)
        if told["sha256"] != _digest(bits, told["shapes"]):
            raise CheckpointError(f"{path}: its masks are not those that were written into it. Get the file again.")
        return cls({name: unpacked(bits[name], tuple(told["shapes"][name])) for name in bits})

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """How many weights every mask keeps, and of how many."""
        return {name: (int(torch.count_nonzero(mask)), mask.numel()) for name, mask in self.keep.items()}

    @property
    def sparsity(self) -> float:
        """The share of weights that they drop, of those that have masks."""
        kept, total = (sum(numbers) for numbers in zip(*self.counts.values(), strict=True)) if self.keep else (0, 0)
        return 1 - kept / total if total else 0.0

    def _fitting(self, model: nn.Module) -> Mapping[str, Tensor]:
        parameters = dict(unwrapped(model).named_parameters())
        faults = []
        for name, mask in self.keep.items():
            if name not in parameters:
                faults.append(f"masks of '{name}': {type(model).__name__} has no such parameter")
            elif parameters[name].shape != mask.shape:
                faults.append(f"masks of '{name}' are {list(mask.shape)}, the parameter is {list(parameters[name].shape)}")
        if faults:
            raise RecipeError(faults)
        return {name: mask.to(parameters[name].device) for name, mask in self.keep.items()}


def kept_of(weight: Tensor) -> Tensor:
    """Where a weight is not zero; everywhere of one that is nothing but zeros, which was never trained."""
    keep = weight.detach() != 0
    return keep if bool(keep.any()) else torch.ones_like(keep)


def packed(mask: Tensor) -> Tensor:
    """A mask in bits, uint8 ``[⌈n / 8⌉]``."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().flatten().numpy()))


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask of this shape."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(bool)).view(shape)


def _digest(bits: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> str:
    """sha256 of the bits by name, and of the shapes."""
    told = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode())
    for name in sorted(bits):
        told.update(name.encode() + b"\0" + bits[name].contiguous().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
