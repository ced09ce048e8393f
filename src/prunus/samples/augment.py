"""Images changed by chance as they are trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def cropped(images: Tensor, padding: int, chance: torch.Generator) -> Tensor:
    """Each of ``[n C H W]`` moved by up to ``padding`` pixels both ways, black where there was nothing."""
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * padding + 1, (2, count), generator=chance)
    places = pad(images, (padding, padding, padding, padding)).unfold(2, height, 1).unfold(3, width, 1)
    return places[torch.arange(count), :, down, right]


def flipped(images: Tensor, chance: torch.Generator) -> Tensor:
    """Each of ``[n C H W]`` mirrored left to right or not, by chance."""
    turned = torch.rand(len(images), generator=chance) < 0.5
    return torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images)
