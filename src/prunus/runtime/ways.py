"""One model, run in several ways: packed, and dense in what torch and prunus have for it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..models.sites import is_transposed_linear
from ..storage.dense import Dense
from ..storage.packed import PackedWeight
from ..storage.values import Values
from .library import Kernels, kernels
from .linear import PackedLinear
from .load import place, swap
from .skipping import SkippingLinear

_OURS = (PackedLinear, SkippingLinear)


def float32(model: Any) -> Any:
    """The same weights, unpacked, multiplied by torch in fp32."""
    found = sharing(model)
    for path, module in list(found.named_modules()):
        if isinstance(module, _OURS):
            swap(found, path, module.unpacked())
    return found


def bfloat16(model: Any) -> Any:
    """The same weights in torch's bf16: native on some processors, emulated on others."""
    found = float32(model)
    for _, module in linears(found):
        module._parameters["weight"] = nn.Parameter(module.weight.detach().bfloat16(), requires_grad=False)
        if module.bias is not None:
            module._parameters["bias"] = nn.Parameter(module.bias.detach().bfloat16(), requires_grad=False)
        module.register_forward_pre_hook(lambda _module, args: (args[0].bfloat16(),))
        module.register_forward_hook(lambda _module, _args, y: y.float())
    return found


def torch_int8(model: Any) -> Any:
    """The same weights in torch's dynamic int8: a scale a matrix, and one for all activations of a call."""
    found = float32(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, module in list(linears(found)):
            if not is_transposed_linear(module):
                made = torch.ao.quantization.quantize_dynamic(nn.Sequential(module), {nn.Linear}, dtype=torch.qint8)
                swap(found, path, made[0])
    return found


def dense_int8(model: Any) -> Any:
    """The same weights, zeros too, in prunus's dense int8 kernel: a scale a row, activations in blocks of 64."""
    found, library = float32(model), _needed()
    for path, module in list(linears(found)):
        weight = module.weight.detach()
        matrix = weight.T if is_transposed_linear(module) else weight
        place(found, path, PackedWeight.of(matrix.contiguous(), Dense(), Values("int8")), library)
    return found


WAYS: dict[str, Callable[[Any], Any]] = {
    "float32": float32, "bfloat16": bfloat16, "torch int8": torch_int8, "dense int8": dense_int8,
}  # fmt: skip


def sharing(model: Any) -> Any:
    """A copy of a model's modules that shares its tensors."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    packed = {id(module): module for module in model.modules() if isinstance(module, _OURS)}
    return copy.deepcopy(model, {**tensors, **packed})


def linears(model: Any) -> Iterator[tuple[str, Any]]:
    """Dense linear layers with their paths."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) or is_transposed_linear(module):
            yield path, module


def bytes_a_token(model: Any) -> int:
    """Bytes of weights that decoding a token reads: all linear layers, the head among them; of those that skip columns what
    they have read on average."""
    total = 0
    for module in model.modules():
        if isinstance(module, PackedLinear):
            total += module.arranged.nbytes
        elif isinstance(module, SkippingLinear):
            total += module.bytes_a_call
        elif isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            total += module.in_features * module.out_features
        elif isinstance(module, nn.Linear) or is_transposed_linear(module):
            total += module.weight.nbytes
    return total


def _needed() -> Kernels:
    found = kernels()
    if found is None:
        raise RuntimeError("no kernels")
    return found
