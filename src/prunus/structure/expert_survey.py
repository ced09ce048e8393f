"""How much each expert of a block gives, on the inputs that the block will really see."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..core.roles import ExpertImportance
from ..core.routed import Routed
from ..models.experts import scored_experts
from .coupling import Coupling


class Tally:
    """Sums of what each of ``count`` experts was handed and gave."""

    def __init__(self, count: int) -> None:
        self.sums = torch.zeros(4, count, dtype=torch.float64)

    def __call__(self, expert: int, gates: Tensor, norms: Tensor) -> None:
        gates, norms = gates.double().cpu(), norms.double().cpu()
        self.sums[:, expert] += torch.stack(
            [torch.tensor(float(len(gates))), gates.sum(), norms.sum(), (gates * norms).sum()]
        )

    def routed(self) -> Routed:
        """The sums by their names."""
        return Routed(*self.sums)


def survey_experts(block: nn.Module, prefix: str, coupling: Coupling, runs: Iterable[Callable[[], object]]) -> Routed:
    """What the experts of a coupling give in these ``runs`` of the block at ``prefix``."""
    stack = next(place.tensor for place in coupling.members if not place.tensor.endswith(("weight", "bias")))
    tally = Tally(coupling.units)
    with scored_experts(block.get_submodule(stack.removeprefix(f"{prefix}.").rpartition(".")[0]), tally):
        for run in runs:
            run()
    return tally.routed()


def choose_experts(importance: ExpertImportance, routed: Routed, kept: int, groups: int) -> Tensor:
    """The experts that stay, ascending, as many of every group; those that no token came to go first."""
    scores = importance.score(routed)
    scores = scores.index_fill(0, routed.unseen, -1.0)
    size = len(scores) // groups
    order = scores.view(groups, size).argsort(dim=1, descending=True, stable=True)[:, : kept // groups]
    return (order + torch.arange(groups).unsqueeze(1) * size).flatten().sort().values
