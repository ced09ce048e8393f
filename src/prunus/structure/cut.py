"""A cut: which units of which couplings stay, and the places that they have in every tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .coupling import Coupling, Place


@dataclass(frozen=True)
class Kept:
    """The units ``[kept]`` of a coupling that stay, ascending."""

    coupling: Coupling
    units: Tensor

    @cached_property
    def dropped(self) -> Tensor:
        """The units that go."""
        gone = torch.ones(self.coupling.units, dtype=torch.bool)
        gone[self.units] = False
        return gone.nonzero().flatten()


class Cut:
    """What stays of every tensor when the units that are not ``kept`` go. Several couplings may share a dimension.

    ``sizes`` are the tensors' shapes.
    """

    def __init__(self, kept: Sequence[Kept], sizes: Mapping[str, Sequence[int]]) -> None:
        gone: dict[Place, list[Tensor]] = defaultdict(list)
        for part in kept:
            for place, positions in part.coupling.members.items():
                gone[place].append(positions[part.dropped].flatten())
        self.kept = tuple(kept)
        self.positions: dict[Place, Tensor] = {}
        for place, dropped in gone.items():
            stays = torch.ones(sizes[place.tensor][place.dim], dtype=torch.bool)
            stays[torch.cat(dropped)] = False
            if not stays.all():
                self.positions[place] = stays.nonzero().flatten()

    @cached_property
    def tensors(self) -> dict[str, list[Place]]:
        """The places that are narrowed of each tensor."""
        found: dict[str, list[Place]] = defaultdict(list)
        for place in self.positions:
            found[place.tensor].append(place)
        return dict(found)

    @cached_property
    def routers(self) -> dict[str, Tensor]:
        """The experts that go, by the path of the router that has to pass over them."""
        found: dict[str, Tensor] = {}
        for part in self.kept:
            if part.coupling.experts and len(part.dropped):
                names = [place.tensor for place in part.coupling.members if place.tensor.endswith(".weight")]
                found |= {name.removesuffix(".weight"): part.dropped for name in names}
        return found

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """A tensor's shape behind the cut."""
        new = list(shape)
        for place in self.tensors.get(name, ()):
            new[place.dim] = len(self.positions[place])
        return tuple(new)

    def narrowed(self, name: str, tensor: Tensor) -> Tensor:
        """What stays of a tensor, contiguous."""
        for dim, entries in sorted(self._by_dim(name, tensor.device).items(), reverse=True):  # of a stack's matrices first
            if None in entries:
                tensor = tensor.index_select(dim, entries[None])
            else:
                rows = [tensor[entry].index_select(dim - 1, entries[entry]) for entry in range(len(tensor))]
                tensor = torch.stack(rows)
        return tensor.contiguous()

    def _by_dim(self, name: str, device: torch.device) -> dict[int, dict[int | None, Tensor]]:
        """What stays along each dimension of a tensor, by the entry of its stack."""
        by_dim: dict[int, dict[int | None, Tensor]] = defaultdict(dict)
        for place in self.tensors.get(name, ()):
            by_dim[place.dim][place.entry] = self.positions[place].to(device)
        return by_dim

    def masked(self, name: str, tensor: Tensor) -> Tensor:
        """A copy of a tensor with zeros where something goes."""
        masked = tensor.clone()
        for place in self.tensors.get(name, ()):
            inside, dim = (masked, place.dim) if place.entry is None else (masked[place.entry], place.dim - 1)
            gone = torch.ones(inside.shape[dim], dtype=torch.bool, device=tensor.device)
            gone[self.positions[place].to(tensor.device)] = False
            inside.index_fill_(dim, gone.nonzero().flatten(), 0)
        return masked

    def widened(self, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """What was narrowed, back in its ``shape``, with zeros where something went: undoes :meth:`narrowed`."""
        for dim, entries in sorted(self._by_dim(name, tensor.device).items()):
            wide = tensor.new_zeros((*tensor.shape[:dim], shape[dim], *tensor.shape[dim + 1 :]))
            if None in entries:
                wide.index_copy_(dim, entries[None], tensor)
            else:
                for entry in range(len(tensor)):
                    wide[entry].index_copy_(dim - 1, entries[entry], tensor[entry])
            tensor = wide
        return tensor
