"""Stacked experts, run one by one so that each expert's inputs can be seen.

No hook fires for an expert inside a stacked tensor. Transformers lets implementations be registered; this one computes
what its eager loop computes and shows every expert's inputs to an observer on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .sites import is_stacked_experts

IMPLEMENTATION = "prunus_observed"
ExpertObserver = Callable[[str, int, Tensor], None]
"""Called with the weight's role, the expert's index and its inputs ``[tokens cols]``."""


@contextmanager
def observed_experts(block: nn.Module, observer: Callable[[nn.Module], ExpertObserver | None]) -> Iterator[None]:
    """Within this context the block's experts run one by one and show their inputs to ``observer(module)``."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
    changed: list[tuple[Any, Any]] = []
    for module in block.modules():
        watch = observer(module) if is_stacked_experts(module) else None
        if watch is not None:
            module._prunus_observer = watch  # type: ignore[assignment]
            changed.append((module, module.config._experts_implementation))  # type: ignore[union-attr]
    for module, _ in changed:
        module.config._experts_implementation_internal = IMPLEMENTATION
    try:
        yield
    finally:
        for module, implementation in changed:
            del module._prunus_observer
            module.config._experts_implementation_internal = implementation


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts on ``hidden_states [tokens width]``, routed by ``top_k_index`` and ``top_k_weights [tokens k]``."""
    observer = getattr(self, "_prunus_observer", None) or (lambda role, expert, inputs: None)
    result = torch.zeros_like(hidden_states)
    first = "gate_up_proj" if self.has_gate else "up_proj"
    for expert in range(self.down_proj.shape[0]):
        token, choice = torch.where(top_k_index == expert)
        if not len(token):
            continue
        inputs = hidden_states[token]
        observer(first, expert, inputs)
        middle = _linear(self, first, expert, inputs)
        middle = self._apply_gate(middle) if self.has_gate else self.act_fn(middle)
        observer("down_proj", expert, middle)
        output = _linear(self, "down_proj", expert, middle)
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        result.index_add_(0, token, (output * top_k_weights[token, choice, None]).to(result.dtype))
    return result


def _linear(self: Any, role: str, expert: int, inputs: Tensor) -> Tensor:
    weight = getattr(self, role)[expert]
    bias = getattr(self, f"{role}_bias")[expert] if self.has_bias else None
    return nn.functional.linear(inputs, weight.T if self.is_transposed else weight, bias)
