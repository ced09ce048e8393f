"""Low-rank updates that keep zeros: W + M ⊙ (α/r)·BA, where M is the mask of W (LoRA, arXiv:2106.09685).

While it trains the update is masked as it will be when it is merged, so that merging changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..core.errors import RecipeError, UnsupportedModelError
from ..core.mask import PRUNED
from .held import sparsity_of


class LowRank(nn.Module):
    """A layer with a trained update of ``rank``; the layer itself is frozen. ``transposed``: its weight is ``[in out]``."""

    mask: Tensor | None

    def __init__(self, layer: nn.Module, rank: int, alpha: float, transposed: bool, generator: torch.Generator) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        rows, cols = weight.shape[::-1] if transposed else weight.shape
        self.layer = layer.requires_grad_(False)
        self.scale = alpha / rank
        self.transposed = transposed
        self.down = nn.Parameter(torch.empty(rank, cols, device=weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        bound = 1 / math.sqrt(cols)
        nn.init.uniform_(self.down, -bound, bound, generator=generator)
        sparse = sparsity_of(weight) >= PRUNED
        self.register_buffer("mask", self._matrix(weight != 0).contiguous() if sparse else None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The layer's weight with its update, for models that read it beside calling the layer."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight + self._matrix(self._update())

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.layer.bias  # type: ignore[return-value]

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.T if self.transposed else weight

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(inputs)
        if self.mask is None:
            return output + self.scale * linear(linear(inputs, self.down.to(inputs.dtype)), self.up.to(inputs.dtype))
        return output + linear(inputs, self._update().to(inputs.dtype))

    def _update(self) -> Tensor:
        update = self.scale * (self.up @ self.down)
        return update if self.mask is None else update * self.mask

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer with the update in its weight."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        weight.add_(self._matrix(self._update()).to(weight.dtype))
        return self.layer


def add_low_rank(model: nn.Module, rank: int, alpha: float, seed: int = 0) -> None:
    """Put low-rank updates on all linear layers but the head; nothing else is trained. B begins at 0, A at random.

    Raises:
        UnsupportedModelError: if it has none.
        RecipeError: if the rank is higher than that of any of them.
    """
    model.requires_grad_(False)
    found = list(_layers(model))
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__}: it has no linear layers that a low-rank update could be put on."
        )
    most = max(min(layer.get_parameter("weight").shape) for _, layer, _ in found)
    if rank > most:
        raise RecipeError([f"lora {rank}: no layer of the model has a rank above {most}; --lora 16 is usual"])
    generator = torch.Generator(model.device).manual_seed(seed)  # type: ignore[arg-type]
    for path, layer, transposed in found:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, LowRank(layer, rank, alpha, transposed, generator))


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Linear layers but for the head, with whether they are stored transposed."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    for path, module in list(model.named_modules()):
        if module is not head and isinstance(module, (nn.Linear, Conv1D)):
            yield path, module, isinstance(module, Conv1D)


def merge_low_rank(model: nn.Module) -> None:
    """Merge all updates into their layers, which get their places back."""
    for path, module in list(model.named_modules()):
        if isinstance(module, LowRank):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module.merged())
    model.requires_grad_(True)
