"""Matrix products in fp32, by the faster of the libraries that torch carries for this CPU.

On CPUs not made by Intel, MKL leaves half of the vector width unused and oneDNN, which torch carries too, is about twice
as fast at the same precision. The choice depends on the machine alone, never on a timing, so that a run repeats exactly.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_PANEL = 256
"""Columns of a Gram computed together: wide enough for a fast product, narrow enough to leave its mirror image out.

Panels are taken from the longest to the shortest, so that each finds room in memory where the one before it was.
"""


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X Wᵀ + b of ``inputs [.. cols]`` and ``weight [rows cols]``: ``[.. rows]``."""
    if not _by_onednn(inputs, weight):
        return functional.linear(inputs, weight, bias)
    if torch.is_grad_enabled() and (inputs.requires_grad or weight.requires_grad):
        product: Tensor = _Linear.apply(inputs, weight)  # type: ignore[no-untyped-call]
        return product if bias is None else product + bias
    return _onednn_linear(inputs, weight.contiguous(), bias)


class _Linear(torch.autograd.Function):
    """X Wᵀ with its gradients, G W and GᵀX, by oneDNN as well."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _onednn_linear(inputs, weight.contiguous(), None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_inputs = _onednn_linear(grad, weight.T.contiguous(), None) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            flat, rows = inputs.reshape(-1, inputs.shape[-1]), grad.reshape(-1, grad.shape[-1])
            of_weight = _onednn_linear(rows.T.contiguous(), flat.T.contiguous(), None)
        return of_inputs, of_weight


def add_gram(total: Tensor, columns: Tensor) -> None:
    """Add the lower triangle of XᵀX, of Xᵀ = ``columns [cols tokens]``, to ``total [cols cols]``, in panels of rows.

    What stands right of the diagonal's panels is not touched: :func:`mirror` fills it in once all is added.
    """
    for left in reversed(range(0, len(columns), _PANEL)):
        right = min(left + _PANEL, len(columns))
        if _by_onednn(columns, columns):
            total[left:right, :right] += _onednn_linear(columns[left:right], columns[:right], None)
        else:
            total[left:right, :right].addmm_(columns[left:right], columns[:right].T)


def transposed_square(lower: Tensor) -> Tensor:
    """LᵀL ``[cols cols]`` of a lower triangle L, in panels of rows that leave out where L is zero."""
    turned = lower.mT.contiguous()
    product = torch.empty_like(turned)
    for left in range(0, len(turned), _PANEL):
        right = min(left + _PANEL, len(turned))
        product[left:right, :right] = linear(turned[left:right, left:], turned[:right, left:])
    mirror(product)
    return product


def mirror(total: Tensor) -> None:
    """Copy the lower triangle of ``total [.. cols cols]`` onto the upper one."""
    for left in range(0, total.shape[-1], _PANEL):
        right = min(left + _PANEL, total.shape[-1])
        square = total[..., left:right, left:right]
        square.copy_(square.tril() + square.tril(-1).mT)
        total[..., :left, left:right] = total[..., left:right, :left].mT


def energy(weight: Tensor, gram: Tensor) -> Tensor:
    """tr(W G Wᵀ) summed over the batch. The Gram is symmetric: what lies right of its diagonal's panels counts twice."""
    grams = gram if gram.dim() == 3 else gram.unsqueeze(0)
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for k, one in enumerate(weight):
        square = grams[min(k, len(grams) - 1)]
        for left in reversed(range(0, one.shape[1], _PANEL)):
            right = min(left + _PANEL, one.shape[1])
            below = linear(one[:, :left], square[left:right, :left]) * 2 if left else 0
            product = below + linear(one[:, left:right], square[left:right, left:right])
            total += product.mul_(one[:, left:right]).sum(dtype=torch.float64)
    return total


class FastLinears(TorchFunctionMode):
    """Within this context the linear layers of any model, GPT-2's ``Conv1D`` too, run through :func:`linear`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs or torch.is_autocast_enabled("cpu"):  # which computes in a dtype of its own
            return func(*args, **kwargs)
        if func is functional.linear and _by_onednn(args[0], args[1]):
            return linear(*args)
        if func is torch.addmm and args[0].dim() == 1 and _by_onednn(args[1], args[2]):
            return linear(args[1], args[2].T, args[0])
        return func(*args)


def _by_onednn(inputs: Tensor, weight: Tensor) -> bool:
    return (
        weight.dim() == 2
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() >= 1 << 14  # below that the call itself is what takes time
        and _onednn_is_faster()
    )


def _onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return product


@cache
def _onednn_is_faster() -> bool:
    """Whether this is an x86 CPU that MKL does not serve well, and torch has oneDNN's linear."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    return _maker() == "AuthenticAMD" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _maker() -> str:
    """The CPU's vendor id, as ``GenuineIntel``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().rpartition(" ")[2]
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
