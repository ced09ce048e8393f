"""Masks that are held: weights that are zero when training begins are so when it ends, and in all that optimisers keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from ..core.mask import PRUNED


@dataclass(frozen=True)
class HeldMasks:
    """Masks by parameter, 1 = kept, of the parameters' own shapes, which may be shards of a larger tensor, and dtypes:
    products of floats alone are three times as fast as those with booleans."""

    masks: Mapping[nn.Parameter, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, pruned: frozenset[str]) -> HeldMasks:
        """Those of the parameters that were ``pruned``, by name; names may have parts that wrappers add (``module.``).

        Raises:
            UnsupportedModelError: if a wrapper hides some of them.
        """
        found = {name: parameter for name, parameter in model.named_parameters()
                 if any(name == one or name.endswith(f".{one}") for one in pruned)}  # fmt: skip
        if len(found) != len(pruned):
            raise UnsupportedModelError(
                f"{len(pruned) - len(found)} of {len(pruned)} pruned matrices are hidden by what shards the model, so that "
                "their zeros cannot be held. Shard by FSDP version 2 (accelerate launch --fsdp_version 2)."
            )
        return cls({parameter: (parameter != 0).to(parameter.dtype) for parameter in found.values()})

    @cached_property
    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        return list(self.masks), list(self.masks.values())

    @torch.no_grad()
    def hold_gradients(self) -> None:
        """Take the gradients of zeros away, so that optimisers keep nothing for them."""
        pairs = [(parameter.grad, mask) for parameter, mask in self.masks.items() if parameter.grad is not None]
        multiply([grad for grad, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def hold_weights(self) -> None:
        """Zeros back to zero, whatever an optimiser made of them."""
        multiply(*self._pairs)


def multiply(tensors: list[Tensor], factors: list[Tensor]) -> None:
    """Multiply tensors in place, all at once."""
    if tensors:
        torch._foreach_mul_(tensors, factors)  # type: ignore[call-overload, unused-ignore]


def sparsity_of(tensor: Tensor) -> float:
    """The share of zeros."""
    return 1 - float(torch.count_nonzero(tensor)) / max(1, tensor.numel())


def pruned_matrices(model: nn.Module) -> frozenset[str]:
    """Names of the matrices of a model that have enough zeros to have been pruned: of stacks of experts one of them is
    enough, in embeddings the rows of unused tokens, all zero, do not count."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2 and _most_zeros(parameter.data, id(parameter) in tables) >= PRUNED
    )


def _most_zeros(weight: Tensor, table: bool) -> float:
    if table:
        weight = weight[weight.any(dim=1)]
    return max(map(sparsity_of, weight)) if weight.dim() == 3 else sparsity_of(weight)
