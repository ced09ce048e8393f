"""A torch module in memory as Sites in blocks, in the order in which they run on the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core.errors import CalibrationError
from ..core.site import Site
from ..models.modules import module_sites
from ..models.sites import Found
from ..observe.applied import Applied, applying

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NEVER = "nothing shows what it reads: its layer does not run on the data, or is torch's own and computes with it inside"
Run = Callable[[], object]
"""Runs the model on one batch."""


class ModuleSource:
    """What can be pruned of a ``model``, by block: an entry of a list of modules with two Sites or more in it, or else a
    single layer. Given a ``run`` of the model, blocks and ``turns`` (Sites handed the same tensor) are in the order in
    which they ran, and what did not run is unsupported.
    """

    def __init__(self, model: nn.Module, run: Run | None) -> None:
        self.model = model
        found = module_sites(model)
        turns = self._ran(found.sites, run) if run is not None else [[site] for site in found.sites]
        ran = [site for turn in turns for site in turn]
        found.unsupported |= {site.name: _NEVER for site in found.sites if site not in ran}
        paths = {site.name: _block_path(model, site.name, [one.name for one in found.sites]) for site in ran}
        self.paths = list(dict.fromkeys(paths.values()))
        self.blocks = [model.get_submodule(path) for path in self.paths]
        placed = {site.name: self._placed(site, paths[site.name]) for site in ran}
        self.turns = [[placed[site.name] for site in turn] for turn in turns]
        self.found = [Found([site for site in placed.values() if site.block == k]) for k in range(len(self.paths))]
        self.outside = Found([], found.on_request, found.untouched, found.unsupported)
        self._dense: dict[Site, Tensor] = {}

    def prefix(self, index: int) -> str:
        """Path of a block."""
        return self.paths[index]

    @property
    def sites(self) -> list[Site]:
        """All Sites, in their order."""
        return [site for found in self.found for site in found.sites]

    def matrix(self, site: Site) -> Tensor:
        """A Site's weight ``[batch rows cols]`` in fp32."""
        return site.layout.to_matrix(self.parameter(site).detach()).float().contiguous()

    def parameter(self, site: Site) -> nn.Parameter:
        """The parameter that a Site is."""
        return self.model.get_parameter(site.parameter)

    @torch.no_grad()
    def put(self, weights: Mapping[Site, Tensor]) -> None:
        """New weights ``[batch rows cols]``; those that the model came with are kept."""
        for site, weight in weights.items():
            parameter = self.parameter(site)
            if site not in self._dense:
                self._dense[site] = parameter.detach().clone()
            parameter.copy_(site.layout.from_matrix(weight.to(parameter)))

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Within this context the model has the weights that it came with."""
        now = {site: self.parameter(site).detach().clone() for site in self._dense}
        self._set(self._dense)
        try:
            yield
        finally:
            self._set(now)

    def restore(self) -> None:
        """All weights as the model came with them."""
        self._set(self._dense)

    @torch.no_grad()
    def _set(self, tensors: Mapping[Site, Tensor]) -> None:
        for site, tensor in tensors.items():
            self.parameter(site).copy_(tensor)

    def _placed(self, site: Site, path: str) -> Site:
        role = site.name.removeprefix(path).removeprefix(".") or site.name
        return replace(site, block=self.paths.index(path), role=role)

    @torch.no_grad()
    def _ran(self, sites: Sequence[Site], run: Run) -> list[list[Site]]:
        """Sites that a run of the model applies, in their order, those together that are handed the same tensor."""
        turns: list[tuple[Tensor, list[Site]]] = []
        seen: set[Site] = set()

        def see(applied: Applied) -> None:
            if applied.site in seen:
                return
            seen.add(applied.site)
            if turns and turns[-1][0] is applied.inputs:
                turns[-1][1].append(applied.site)
            else:
                turns.append((applied.inputs, [applied.site]))

        with applying({self.model.get_parameter(site.parameter): site for site in sites}, see):
            _first(self.model, run)
        return [turn for _, turn in turns]


def _first(model: nn.Module, run: Run) -> None:
    """The first run on a batch.

    Raises:
        CalibrationError: if the model does not take it.
    """
    try:
        run()
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        told = f"data: {type(model).__name__} does not run on the first batch ({reason})."
        how = "Give batches that its forward takes, or say by call=lambda model, batch: … how it is called."
        raise CalibrationError(f"{told} {how}") from error


def _block_path(model: nn.Module, name: str, names: Sequence[str]) -> str:
    """The path of the block that a Site is in: the innermost entry of a list that is no list and holds other Sites too."""
    words = name.split(".")
    for k in range(len(words) - 1, 0, -1):
        path, parent = ".".join(words[:k]), ".".join(words[: k - 1])
        entry = isinstance(model.get_submodule(parent), _CONTAINERS)
        entry = entry and not isinstance(model.get_submodule(path), _CONTAINERS)
        if entry and sum(other.startswith(f"{path}.") for other in names) > 1:
            return path
    return name if _is_module(model, name) else ".".join(words[:-1])


def _is_module(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True
