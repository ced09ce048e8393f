"""A linear layer that does not read the columns of its weight that meet small activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .arranged import BLOCK, Arranged
from .library import Kernels

FEW = 8
"""Tokens up to which columns are skipped: those that all of them can do without."""
_COLUMNS = 1024


class Phase:
    """Whether a model is reading a prompt, which is computed dense, or continuing it."""

    def __init__(self, model: nn.Module) -> None:
        self.prompt = True
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self.prompt = cache is None or cache.get_seq_length() == 0


class SkippingLinear(nn.Module):
    """y = x · Wᵀ + b with W kept column by column, ``x [.. in]``; computed in fp32.

    Behind the prompt, entries of at most ``threshold`` in magnitude count as zero. Up to :data:`FEW` tokens the kernels
    leave out the columns that meet nothing else; ``columns_read`` and ``calls`` count what they did.
    """

    def __init__(self, arranged: Arranged, bias: Tensor | None, kernels: Kernels, threshold: float, phase: Phase) -> None:
        super().__init__()
        self.arranged, self.kernels, self.threshold, self.phase = arranged, kernels, threshold, phase
        self.in_features, self.out_features = arranged.cols, arranged.rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.columns_read = self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"{list(x.shape)} activations for a layer of {self.in_features} inputs")
        plain = x if x.dtype is torch.float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
        tokens = plain.numel() // self.in_features
        if self.phase.prompt or not 0 < tokens <= FEW:
            flat = plain.view(tokens, self.in_features)
            y = self._dense(flat if self.phase.prompt else flat.masked_fill(flat.abs() <= self.threshold, 0))
            y = y.view(*x.shape[:-1], self.out_features)
        else:
            y = torch.empty((*x.shape[:-1], self.out_features))
            self.columns_read += self.kernels.skip(self.arranged.matrix, plain, tokens, self.threshold, y)
            self.calls += 1
        if self.bias is not None:
            y += self.bias
        return y if x.dtype is torch.float32 else y.to(x.dtype)

    @property
    def _columns(self) -> Tensor:
        """The stored values ``[cols rows]``."""
        stride = -(-self.out_features // BLOCK) * BLOCK
        values = self.arranged.tensors["values"][: self.in_features * stride]
        return values.view(self.in_features, stride)[:, : self.out_features]

    @property
    def _scales(self) -> Tensor | None:
        scales = self.arranged.tensors.get("scales")
        return None if scales is None else scales[: self.out_features].float()

    def _dense(self, x: Tensor) -> Tensor:
        """All columns times ``x [tokens in]``, those of narrow values widened some at a time."""
        columns, scales = self._columns, self._scales
        if columns.dtype is torch.float32:
            return x @ columns
        y = torch.zeros(len(x), self.out_features)
        for first in range(0, self.in_features, _COLUMNS):
            y.addmm_(x[:, first : first + _COLUMNS], columns[first : first + _COLUMNS].float())
        return y if scales is None else y.mul_(scales)

    @property
    def bytes_a_call(self) -> int:
        """Bytes of weights that a call has read on average; of all columns before the first one."""
        columns = self.columns_read / self.calls if self.calls else self.in_features
        stored = self.arranged.tensors["values"].itemsize * self.out_features * columns
        scales = self.arranged.tensors.get("scales")
        return round(stored) + (0 if scales is None else scales.itemsize * self.out_features)

    def weight_dense(self) -> Tensor:
        """The weight ``[out in]`` in fp32."""
        weight, scales = self._columns.T.float(), self._scales
        return weight.contiguous() if scales is None else weight * scales.unsqueeze(1)

    def unpacked(self) -> nn.Linear:
        """The same layer with a plain weight, and no threshold."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight_dense(), requires_grad=False)
        linear.bias = self.bias  # type: ignore[assignment]
        return linear

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.arranged.layout}, "
            f"threshold={self.threshold:.4g}"
        )
