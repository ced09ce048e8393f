"""What a network's passes compute, in floating-point operations: two for every multiplication with a weight that is not
zero, as if zeros cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Operations:
    """Operations of the forward pass of one example: of ``layers``, modules with a ``weight``, and of the ``rest``, which
    has no weights or not as a module's. Additions of biases, norms and activations are not counted."""

    model: nn.Module
    layers: dict[nn.Module, int]
    rest: int

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, example: Tensor) -> Operations:
        """Count those of ``example [1 …]``, in eval mode, in which the model is left."""
        model.eval()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused ones are not counted on CPUs
            model(example)
        counted: dict[str, dict[Any, int]] = counter.get_flop_counts()
        layers = {}
        for name, module in model.named_modules():
            count = sum(counted.get(f"{type(model).__name__}.{name}", {}).values())
            inner = [child for child, _ in module.named_children() if child != "parametrizations"]
            if count and isinstance(getattr(module, "weight", None), Tensor) and not inner:
                layers[module] = count
        return cls(model, layers, sum(counted["Global"].values()) - sum(layers.values()))

    @property
    def dense(self) -> float:
        """Of a forward pass, zeros and all."""
        return float(self.rest + sum(self.layers.values()))

    def sparse(self) -> float:
        """Of a forward pass with the weights as they are now."""
        left = {module: int(torch.count_nonzero(module.weight)) / module.weight.numel() for module in self.layers}  # type: ignore[operator, arg-type]
        return self.rest + sum(count * left[module] for module, count in self.layers.items())

    def step(self, sparse: float, dense_gradients: float) -> float:
        """Of a step of training for one example, of whose forward passes each has ``sparse``: forward, gradients of inputs,
        and gradients of weights, which in the share ``dense_gradients`` of steps are those of dropped weights too."""
        return 3 * sparse + dense_gradients * (self.dense - sparse)
