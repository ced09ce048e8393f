"""The cut checkpoint: tensors narrowed, gains of norms corrected, under the names that the smaller model has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.writer import MirrorWriter
from ..core.errors import CheckpointError
from ..models.names import NameMap, release_parameter
from .averages import averaged_modules, corrected
from .coupling import gain_of
from .cut import Cut
from .masked_block import MaskedModule


class CutOutput:
    """Writes a smaller ``model``, whose parameters are on ``meta``, tensor by tensor.

    ``stacks`` are the paths of the lists of blocks, ``blocks`` the old numbers of those that stay.
    """

    def __init__(self, model: Any, writer: MirrorWriter, prefixes: Mapping[str, str]) -> None:
        self.model = model
        self.writer = writer
        self.names = NameMap(model, writer.source.names)
        self.names.settle_ties(lambda name: torch.zeros(()))
        self._prefixes = prefixes
        self._shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    def new_name(self, name: str) -> str:
        """The smaller model's name of a parameter."""
        for old, new in self._prefixes.items():
            if name.startswith(f"{old}."):
                return new + name.removeprefix(old)
        return name

    def narrowed(self, module: MaskedModule, cut: Cut) -> dict[str, Tensor]:
        """What stays of a module's parameters and stored buffers, by the smaller model's names."""
        gains = {
            gain_of(path): corrected(module.module.get_submodule(path.removeprefix(module.prefix).lstrip(".")), len(kept))
            for path, kept in averaged_modules(cut).items()
            if gain_of(path) in module.parameters
        }
        found = {}
        for name, value in module.state().items():
            new = self.new_name(name)
            if new in self.names.sources:
                tensor = cut.narrowed(name, gains.get(name, value))
                if tuple(tensor.shape) != self._shapes[new]:
                    raise CheckpointError(f"'{name}' is {list(tensor.shape)} once cut, the new config asks for "
                                          f"{list(self._shapes[new])}: please report it.")  # fmt: skip
                found[new] = tensor
        return found

    def widened(self, names: Mapping[str, tuple[int, ...]], cut: Cut) -> dict[str, Tensor]:
        """Parameters that were written, by their old ``names``, back in the shapes that they had, zeros around them."""
        found = {}
        for name, shape in names.items():
            new = self.new_name(name)
            self.names.load([new], self.writer.read, torch.device("cpu"))
            found[name] = cut.widened(name, self.model.get_parameter(new).data, shape)
            owner, _, key = new.rpartition(".")
            release_parameter(self.model.get_submodule(owner), key)
        return found

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Write parameters, by the smaller model's names, in their stored dtypes."""
        stored = self.names.to_disk({name: value for name, value in tensors.items() if name in self.names.sources})
        for name, value in stored.items():
            self.writer.put({name: value.to(self.writer.source.entry(name).dtype)})

    def job(self, tensors: Mapping[str, Tensor], then: Callable[[], None]) -> Callable[[], None]:
        """Write, make sure that it is on the disk, and call ``then``."""
        return partial(self._write, tensors, then)

    def _write(self, tensors: Mapping[str, Tensor], then: Callable[[], None]) -> None:
        self.put(tensors)
        self.writer.sync()
        then()


def new_prefixes(source: Any, blocks: Sequence[int]) -> dict[str, str]:
    """From the paths of blocks that stay to those that they will have."""
    found, place = {}, 0
    for stack in source.stacks:
        inside = [index for index in blocks if place <= index < place + len(stack.blocks)]
        for number, index in enumerate(inside):
            found[source.prefix(index)] = f"{stack.path}.{number}"
        place += len(stack.blocks)
    return found
