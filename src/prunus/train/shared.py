"""Codebooks that are trained: a weight is the value that its code numbers (arXiv:1510.00149, section 3.3).

The gradient of a shared value is the sum of its members' gradients, ∂L/∂C_k = Σ_ij ∂L/∂W_ij · [I_ij = k]; what is zero has
no value, gets no gradient and stays zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from ..core.errors import NumericalError, RecipeError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.mask import PRUNED
from ..models.sites import is_transposed_linear
from ..storage.codebook import nearest, shared_values
from ..storage.values import SHARED
from .held import pruned_matrices

_WEIGHT = "weight"


class Codebook(nn.Module):
    """The weight of a layer as codes, uint8 in its shape, of a codebook ``[≤ 2^bits − 1]``, which is what is trained.

    The number behind the codebook's last is the code of zeros: one of the 2^bits is left for zeros that have to be stored.
    """

    codes: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        flat = weight.detach().cpu().flatten()
        survivors = flat[flat != 0]
        values = shared_values(survivors, (1 << bits) - 1)
        codes = torch.full(flat.shape, len(values), dtype=torch.uint8)
        codes[flat != 0] = nearest(survivors, values)
        self.count = len(values)
        self.register_buffer("codes", codes.view(weight.shape).to(weight.device))

    def forward(self, codebook: Tensor) -> Tensor:
        """The weight."""
        taken: Tensor = _Take.apply(codebook, self.codes)  # type: ignore[no-untyped-call]
        return taken

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The codebook for these codes whose weight is nearest to ``weight``: the mean of each value's members."""
        members = torch.bincount(self.codes.flatten(), minlength=self.count + 1)[: self.count]
        return (_sums(weight.detach(), self.codes, self.count) / members).to(weight.dtype)


class _Take(torch.autograd.Function):
    """Values by their codes; back, the sum of the gradients of each value's members."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.count = len(codebook)
        with_zero = torch.nn.functional.pad(codebook, (0, 1))
        return with_zero.index_select(0, codes.flatten().int()).view(codes.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        return _sums(gradient, codes, ctx.count).to(gradient.dtype), None


def _sums(tensor: Tensor, codes: Tensor, count: int) -> Tensor:
    """The sum of all that has each code, in fp64."""
    return torch.bincount(codes.flatten(), tensor.flatten().double(), minlength=count + 1)[:count]


@dataclass(frozen=True)
class SharedWeights:
    """Layers of a model that share weights, by path, and those that were ``left`` as they are, with the reasons."""

    layers: dict[str, nn.Module]
    left: dict[str, str]

    def codebooks(self) -> list[nn.Parameter]:
        """What there is to train of them."""
        return [codebook_of(layer) for layer in self.layers.values()]

    def finish(self) -> None:
        """Ordinary weights again, of few different values each; optimisers that held the codebooks are of no use now."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, _WEIGHT, leave_parametrized=True)


def codebook_of(layer: nn.Module) -> nn.Parameter:
    """The codebook of a layer that shares weights."""
    parameter: nn.Parameter = layer.parametrizations[_WEIGHT].original  # type: ignore[union-attr,index]
    return parameter


def share_weights(model: nn.Module, bits: int = 5, *, layers: Collection[str] | None = None) -> SharedWeights:
    """Let the weights of every linear layer and convolution share 2^bits − 1 values, found by k-means, in place.

    Zeros stay zeros. Train :meth:`SharedWeights.codebooks` (they are among ``model.parameters()``, in the place of the
    weights), then call :meth:`SharedWeights.finish`: weights are ordinary tensors again, which ``prunus pack --values
    sharedBITS`` keeps to the bit. ``layers`` are the paths of those that are meant, if not all are.

    Raises:
        RecipeError: if there are no codes of so many ``bits``, or a path in ``layers`` is no such layer's.
        NumericalError: if a weight is not finite.
        UnsupportedModelError: if nothing is there to be shared.
    """
    if bits not in SHARED.values():
        raise RecipeError([f"codes of {bits} bits: from {min(SHARED.values())} to {max(SHARED.values())}"])
    found = dict(_layers(model))
    unknown = [path for path in layers or () if path not in found]
    if unknown:
        raise RecipeError([f"'{path}' is no linear layer or convolution of the model" for path in unknown])
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    shared, left = {}, {}
    for path, layer in found.items():
        if layers is not None and path not in layers:
            continue
        weight = layer.get_parameter(_WEIGHT) if not parametrize.is_parametrized(layer, _WEIGHT) else None
        if weight is None:
            left[path] = "its weight is computed from something else already"
        elif owners[id(weight)] > 1:
            left[path] = "its weight is another layer's as well"
        elif not bool(weight.any()):
            left[path] = "it holds nothing but zeros"
        elif not all_finite(weight):
            raise NumericalError(f"{path}: its weight holds NaN or Inf, which no value can be shared with.")
        else:
            shared[path] = layer
    if not shared:
        raise UnsupportedModelError(
            f"{type(model).__name__}: it has no linear layer or convolution that could share weights."
        )
    for layer in shared.values():
        parametrize.register_parametrization(layer, _WEIGHT, Codebook(layer.get_parameter(_WEIGHT), bits))
    return SharedWeights(shared, left)


def share_pruned(model: nn.Module, bits: int) -> SharedWeights:
    """Let pruned matrices share weights; nothing but their codebooks is trained.

    Raises:
        UnsupportedModelError: if there are none, or some are no layer's own weight (stacks of experts, tied heads).
    """
    names = pruned_matrices(model)
    layers = [name.removesuffix(f".{_WEIGHT}") for name in sorted(names)]
    known = dict(_layers(model))
    strange = [path for path in layers if path not in known]
    if strange or not layers:
        found = f"'{strange[0]}' is no linear layer's weight" if strange else f"no matrix has {PRUNED:.0%} zeros"
        raise UnsupportedModelError(f"{type(model).__name__}: {found}, so its pruned weights cannot be shared.")
    shared = share_weights(model, bits, layers=layers)
    if shared.left:
        path, why = next(iter(shared.left.items()))
        raise UnsupportedModelError(f"{path}: {why}, so its pruned weights cannot be shared.")
    model.requires_grad_(False)
    for codebook in shared.codebooks():
        codebook.requires_grad_(True)
    return shared


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers and convolutions with their paths."""
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or is_transposed_linear(module):
            yield path, module
