"""A linear layer whose weight stays packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .arranged import Arranged
from .library import Kernels

MANY = 64
"""Tokens above which float weights are unpacked, some rows at a time, and multiplied by torch."""
_ROWS = 1024


class PackedLinear(nn.Module):
    """y = x · Wᵀ + b on the kernels, ``x [.. in]``; computed in fp32, whatever dtype ``x`` has.

    Codes are multiplied as whole numbers, with activations rounded to 8 bits, a scale for every 64 columns of a token.
    """

    def __init__(self, arranged: Arranged, bias: Tensor | None, kernels: Kernels) -> None:
        super().__init__()
        self.arranged, self.kernels = arranged, kernels
        self.in_features, self.out_features = arranged.cols, arranged.rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        # Small layers are called hundreds of times a token: what need not be done is not.
        if x.shape[-1] != self.in_features:
            raise ValueError(f"{list(x.shape)} activations for a layer of {self.in_features} inputs")
        plain = x if x.dtype is torch.float32 and x.is_contiguous() else x.to(torch.float32).contiguous()
        tokens = plain.numel() // self.in_features
        y = torch.empty((*x.shape[:-1], self.out_features))
        if tokens > MANY and not self.arranged.coded:
            self._multiply_unpacked(plain.view(tokens, -1), y.view(tokens, -1))
        else:
            self.kernels.multiply(self.arranged.matrix, plain, tokens, y)
        if self.bias is not None:
            y += self.bias
        return y if x.dtype is torch.float32 else y.to(x.dtype)

    def _multiply_unpacked(self, x: Tensor, y: Tensor) -> None:
        for first in range(0, self.out_features, _ROWS):
            rows = min(_ROWS, self.out_features - first)
            y[:, first : first + rows] = x @ self.kernels.decode(self.arranged.matrix, first, rows).T

    def weight_dense(self) -> Tensor:
        """The weight ``[out in]``, unpacked, in fp32."""
        return self.kernels.decode(self.arranged.matrix, 0, self.out_features)

    def unpacked(self) -> nn.Linear:
        """The same layer with a plain weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight_dense(), requires_grad=False)
        linear.bias = self.bias  # type: ignore[assignment]
        return linear

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.arranged.layout}"
