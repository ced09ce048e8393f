"""Masks of a model, outside of it: by parameter, saved in bits, to and from those of torch.nn.utils.prune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..core.errors import CheckpointError, RecipeError
from ..models.modules import module_sites, unwrapped

_SHAPE, _FORMAT = "shape", "prunus.masks"


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
        found = {}
        for site in module_sites(inner).sites:
            keep = inner.get_parameter(site.parameter).detach() != 0
            if not keep.all() and keep.any():
                found[site.parameter] = keep
        return cls(found)

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
        """Put the masks on a model as torch.nn.utils.prune has them: ``weight_orig`` is trained, ``weight`` is computed."""
        for name, mask in self._fitting(model).items():
            path, _, key = name.rpartition(".")
            prune.custom_from_mask(unwrapped(model).get_submodule(path), key, mask)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Make them permanent: what they drop becomes zero.

        Raises:
            RecipeError: if the model has no such parameters, or of other shapes.
        """
        for name, mask in self._fitting(model).items():
            unwrapped(model).get_parameter(name).mul_(mask)

    def save(self, path: str | Path) -> None:
        """Write them to a safetensors file, a bit a weight."""
        from safetensors.torch import save_file

        tensors = {}
        for name, mask in self.keep.items():
            tensors[name] = packed(mask)
            tensors[f"{name}.{_SHAPE}"] = torch.tensor(mask.shape, dtype=torch.int64)
        place = Path(path)
        temporary = place.with_name(f"{place.name}.new")
        save_file(tensors, temporary, metadata={"format": _FORMAT})
        temporary.replace(place)

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read a file that :meth:`save` wrote.

        Raises:
            CheckpointError: if it is none.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("format") != _FORMAT:
                    raise CheckpointError(f"{path}: no masks of prunus, which Masks.save writes.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: no readable masks ({' '.join(str(error).split())}).") from error
        shapes = {name: tensors.pop(f"{name}.{_SHAPE}") for name in list(tensors) if f"{name}.{_SHAPE}" in tensors}
        return cls({name: unpacked(bits, tuple(shapes[name].tolist())) for name, bits in tensors.items()})

    @property
    def sparsity(self) -> float:
        """The share of weights that they drop, of those that have masks."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1 - sum(int(mask.sum()) for mask in self.keep.values()) / max(1, total)

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


def packed(mask: Tensor) -> Tensor:
    """A mask in bits, uint8 ``[⌈n / 8⌉]``."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().flatten().numpy()))


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask of this shape."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(bool)).view(shape)
