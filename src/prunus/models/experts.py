"""Stacked experts, run one by one so that each expert's inputs can be seen.

No hook fires for an expert inside a stacked tensor. Transformers lets implementations be registered; this one computes
what its eager loop computes and shows every expert's inputs to an observer on the way. Where a model multiplies all of its
experts at once (Llama 4), that product is watched instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .sites import is_batched_experts, is_stacked_experts

IMPLEMENTATION = "prunus_observed"
EVERY = "prunus_every"
SCORED = "prunus_scored"
ExpertObserver = Callable[[str, int, Tensor], None]
"""Called with the weight's role, the expert's index and its inputs ``[tokens cols]``."""


class OneByOne:
    """Modules of experts that run one by one, and what they run by otherwise."""

    def __init__(self, modules: Sequence[Any], implementation: str = IMPLEMENTATION) -> None:
        self._usual = [(module, module.config._experts_implementation) for module in modules]
        self._own = implementation
        self._choose(implementation)

    def _choose(self, implementation: str | None) -> None:
        """This implementation, or the usual ones."""
        for module, usual in self._usual:
            module.config._experts_implementation_internal = implementation or usual

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this context they run as usual, to the same bits."""
        self._choose(None)
        try:
            yield
        finally:
            self._choose(self._own)

    def end(self) -> None:
        """Let them run as usual from now on."""
        self._choose(None)


@contextmanager
def observed_experts(
    block: nn.Module, observer: Callable[[nn.Module], ExpertObserver | None], everyone: Collection[int] = ()
) -> Iterator[OneByOne]:
    """Within this context the block's experts run one by one and show their inputs to ``observer(module)``.

    The experts in ``everyone`` show all tokens of their layer, as if the router had chosen them for each. What the block
    computes is the same but for rounding, except where all experts are multiplied at once: then its output is not to be
    used.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
    changed: list[nn.Module] = []
    batched: dict[int, tuple[str, _Watch]] = {}
    for module in block.modules():
        stacked, at_once = is_stacked_experts(module), is_batched_experts(module)
        show = observer(module) if stacked or at_once else None
        if show is None:
            continue
        watch = _Watch(show, frozenset(everyone))
        if at_once:
            batched |= {id(weight): (role, watch) for role, weight in module.named_parameters(recurse=False)}
        else:
            module._prunus_observer = watch  # type: ignore[assignment]
            changed.append(module)
    experts = OneByOne(changed)
    try:
        with _BatchedProducts(batched) if batched else nullcontext():
            yield experts
    finally:
        experts.end()
        for module in changed:
            del module._prunus_observer


Scorer = Callable[[int, Tensor, Tensor], None]
"""Called with an expert's index, the gates ``[tokens]`` of the tokens routed to it and the norms of what it gives them."""


@contextmanager
def scored_experts(module: nn.Module, scorer: Scorer) -> Iterator[None]:
    """Within this context a module of experts shows how much each gives; what it computes is the same but for rounding.

    Where all experts are multiplied at once (Llama 4), their inputs are scaled by the gates before: these are told as 1.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if is_batched_experts(module):
        with _BatchedOutputs(module.down_proj, scorer):  # type: ignore[arg-type]
            yield
        return
    ALL_EXPERTS_FUNCTIONS.register(SCORED, _forward_scored)
    module._prunus_scorer = scorer  # type: ignore[assignment]
    experts = OneByOne([module], SCORED)
    try:
        yield
    finally:
        experts.end()
        del module._prunus_scorer


class _BatchedOutputs(TorchFunctionMode):
    """Shows the norms of what each expert gives, of a product of all at once ``[experts tokens out]``."""

    def __init__(self, weight: Tensor, scorer: Scorer) -> None:
        super().__init__()
        self._weight = weight
        self._scorer = scorer

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        output = func(*args, **(kwargs or {}))
        if func is torch.bmm and args[1] is self._weight:
            for expert, rows in enumerate(args[0]):
                norms = output[expert][rows.any(-1)].float().norm(dim=-1)
                self._scorer(expert, torch.ones_like(norms), norms)
        return output


@contextmanager
def every_expert(model: nn.Module) -> Iterator[None]:
    """Within this context every stacked expert runs on every token, what it gives weighted as its router says."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(EVERY, _forward_every)
    experts = OneByOne([module for module in model.modules() if is_stacked_experts(module)], EVERY)
    try:
        yield
    finally:
        experts.end()


class _Watch(NamedTuple):
    """Who is shown the inputs, and which experts show all tokens."""

    show: ExpertObserver
    everyone: frozenset[int]


class _BatchedProducts(TorchFunctionMode):
    """Shows the rows that are not zero of every expert's inputs ``[experts tokens in]`` to a batched product.

    An expert that shows all tokens is given the sum over the experts' inputs, in which every token stands as it was routed.
    """

    def __init__(self, weights: Mapping[int, tuple[str, _Watch]]) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = self.weights.get(id(args[1])) if func is torch.bmm and len(args) == 2 else None
        if found is None:
            return func(*args, **(kwargs or {}))
        role, (show, everyone) = found
        inputs, weight = args
        if everyone and role != "down_proj":
            total, inputs = inputs.sum(0), inputs.clone()
            inputs[list(everyone)] = total
        for expert, rows in enumerate(inputs):
            show(role, expert, rows[rows.any(-1)])
        return func(inputs, weight)


def _unwatched(role: str, expert: int, inputs: Tensor) -> None:
    """Nobody looks."""


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts on ``hidden_states [tokens width]``, routed by ``top_k_index`` and ``top_k_weights [tokens k]``."""
    show, everyone = getattr(self, "_prunus_observer", _Watch(_unwatched, frozenset()))
    result = torch.zeros_like(hidden_states)
    for expert in range(self.down_proj.shape[0]):
        if expert in everyone:
            _middle(self, expert, hidden_states, show)
        token, choice = torch.where(top_k_index == expert)
        if not len(token):
            continue
        middle = _middle(self, expert, hidden_states[token], _unwatched if expert in everyone else show)
        output = _linear(self, "down_proj", expert, middle)
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        result.index_add_(0, token, (output * top_k_weights[token, choice, None]).to(result.dtype))
    return result


def _forward_scored(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The same as :func:`_forward`, with each expert's gates and the norms of its outputs shown."""
    result = torch.zeros_like(hidden_states)
    for expert in range(self.down_proj.shape[0]):
        token, choice = torch.where(top_k_index == expert)
        if not len(token):
            continue
        output = _linear(self, "down_proj", expert, _middle(self, expert, hidden_states[token], _unwatched))
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        gates = top_k_weights[token, choice]
        self._prunus_scorer(expert, gates, output.float().norm(dim=-1))
        result.index_add_(0, token, (output * gates[:, None]).to(result.dtype))
    return result


def _forward_every(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The same as :func:`_forward`, without a choice of tokens."""
    result = torch.zeros_like(hidden_states)
    for expert in range(self.down_proj.shape[0]):
        output = _linear(self, "down_proj", expert, _middle(self, expert, hidden_states, _unwatched))
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        result = result + output * (top_k_weights * (top_k_index == expert)).sum(-1, keepdim=True).to(output.dtype)
    return result


def _middle(self: Any, expert: int, inputs: Tensor, show: ExpertObserver) -> Tensor:
    """What an expert's second matrix is handed for ``inputs [tokens width]``; both matrices' inputs are shown."""
    first = "gate_up_proj" if self.has_gate else "up_proj"
    show(first, expert, inputs)
    raw = _linear(self, first, expert, inputs)
    middle: Tensor = self._apply_gate(raw) if self.has_gate else self.act_fn(raw)
    show("down_proj", expert, middle)
    return middle


def _linear(self: Any, role: str, expert: int, inputs: Tensor) -> Tensor:
    weight = getattr(self, role)[expert]
    bias = getattr(self, f"{role}_bias")[expert] if self.has_bias else None
    return nn.functional.linear(inputs, weight.T if self.is_transposed else weight, bias)
