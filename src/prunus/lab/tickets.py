"""Lottery tickets: masks drawn from trained weights, networks rewound under them, and what they are held against.

Iterative magnitude pruning (arXiv:1803.03635) with rewinding to step k (arXiv:1912.05671).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..samples.batches import InOrder
from .judge import judge

Masks = Mapping[str, Tensor]
"""By parameter, True = kept."""


@torch.no_grad()
def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """The model, its weights zero where a mask drops them."""
    for name, mask in masks.items():
        parameter = model.get_parameter(name)
        parameter.mul_(mask.to(parameter.device))
    return model


def shuffled_masks(masks: Masks, seed: int) -> dict[str, Tensor]:
    """Masks that keep as many weights of every layer, anywhere in it."""
    chance = torch.Generator().manual_seed(seed)
    found = {}
    for name, mask in masks.items():
        flat = mask.flatten().cpu()
        found[name] = flat[torch.randperm(len(flat), generator=chance)].view(mask.shape)
    return found


@torch.no_grad()
def barrier(one: nn.Module, other: nn.Module, between: nn.Module, tests: InOrder, places: int = 5) -> float:
    """How much the error rises on the line between two networks (arXiv:1912.05671, sec. 2): the highest error on it, in
    percentage points, above the mean of its two ends; norms' statistics are mixed as weights are. ``between`` is a third
    network of the same make, to hold the mixtures.

    At 0 the two came to linearly connected minima: training under this mask is stable to the order of examples.
    """
    mine, theirs = one.state_dict(), other.state_dict()
    errors = []
    for k in range(places):
        share = k / (places - 1)
        mixed = {
            name: torch.lerp(value, theirs[name].to(value), share) if value.is_floating_point() else value
            for name, value in mine.items()
        }
        between.load_state_dict(mixed)
        errors.append(-judge(between, tests).score if not tests.samples.is_text else judge(between, tests).loss)
    return max(errors) - (errors[0] + errors[-1]) / 2


def earliest(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The look with the lowest test loss: when training would have stopped early, and how good the network was then."""
    looks = [look for epoch in history for look in epoch.get("looks", ())]
    best: Mapping[str, Any] = min(looks, key=lambda look: look["test_loss"])
    return {"step": best["step"], "score": best["test_score"]}
