"""Choosing units of a model in memory, and repairing what reads them, biases included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.mask import Mask
from ..core.problem import Problem
from ..core.roles import Importance, Solver
from ..core.stats import Needs, Stats
from ..core.units import Reader, Units, Writer
from ..criteria.magnitude import Magnitude
from ..patterns.lines import Column
from ..solve.centre import centred
from .coupling import Coupling, Place
from .cut import Cut
from .module_stats import ReaderLayer

UNSEEN = "no layer that reads it was seen to run, so that nothing is known of what it carries"


@dataclass(frozen=True)
class Known:
    """What is known of a model: its ``layers`` that read, the ``stats`` of their inputs (None: none were looked at) and the
    ``grads`` of parameters, all by the parameters' names."""

    model: nn.Module
    layers: Mapping[str, ReaderLayer]
    stats: Mapping[str, Stats] | None
    grads: Mapping[str, Tensor]

    def units(self, coupling: Coupling) -> Units:
        """A coupling as units with all that reads and writes them; running statistics are neither."""
        parameters = dict(self.model.named_parameters())
        readers, writers = [], []
        for place, positions in coupling.members.items():
            layer = self.layers.get(place.tensor)
            if layer is not None and place.dim == 1 and (self.stats is None or place.tensor in self.stats):
                own = {"grad": layer.as_matrix(self.grads[place.tensor])} if self.grads else {}
                stats = (self.stats or {}).get(place.tensor, Stats.none())
                readers.append(Reader(layer.matrix, layer.columns(positions), stats, layer.path, own))
            elif place.tensor in parameters:
                own = {"grad": _by_position(self.grads[place.tensor], place, positions)} if self.grads else {}
                writers.append(Writer(_by_position(parameters[place.tensor].detach(), place, positions), own))
        return Units(coupling.units, tuple(readers), tuple(writers))


def _by_position(tensor: Tensor, place: Place, positions: Tensor) -> Tensor:
    """What each unit has of a tensor, ``[units values]``."""
    return tensor.float().movedim(place.dim, 0)[positions.to(tensor.device)].flatten(1)


def choose(known: Known, couplings: Sequence[Coupling], kept: Sequence[int], importance: Importance) -> list[Tensor | None]:
    """The units of every coupling that stay; None where the importance looks at inputs and none were seen."""
    found: list[Tensor | None] = []
    for coupling, count in zip(couplings, kept, strict=True):
        units = known.units(coupling)
        blind = bool(importance.needs.of_inputs) and not units.readers
        found.append(None if blind else importance.choose(units, count).cpu())
    return found


@torch.no_grad()
def repair(known: Known, cut: Cut, solver: Solver) -> dict[str, float]:
    """Fit the weights and biases of all layers that read what goes, in place; their relative errors by path.

    Where the solver frees biases they make up for the mean of what is lost (:mod:`prunus.solve.centre`).
    """
    errors = {}
    for name, layer in known.layers.items():
        place = Place(name, 1)
        stats = (known.stats or {}).get(name)
        if place not in cut.positions or stats is None:
            continue
        weight = layer.matrix.unsqueeze(0)
        columns = layer.columns(cut.positions[place].unsqueeze(1)).flatten()
        keep = torch.zeros(weight.shape[-1], dtype=torch.bool, device=weight.device)
        keep[columns.to(keep.device)] = True
        free, means = centred(stats) if solver.bias and layer.module.bias is not None else (stats, None)
        mask = Mask(keep.expand_as(weight), Column())
        sparsity = 1 - float(keep.float().mean())
        problem = Problem(layer.site, weight, free, sparsity, Column(), Magnitude(), fixed_mask=mask)
        (solution,) = solver.solve([problem])
        new = solution.weight[0]
        if means is not None:
            layer.module.bias.data += ((weight[0] - new) @ means[0]).to(layer.module.bias.dtype)
        layer.module.weight.data.copy_(layer.site.layout.from_matrix(solution.weight))
        errors[layer.path] = float(solution.rel_error)
    return errors


REPAIR_NEEDS = Needs.GRAM | Needs.SUM
"""What of inputs a repair looks at."""
