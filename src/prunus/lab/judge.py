"""What a network says of examples, as a loss and as a figure of merit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.nn.utils import parametrize

from ..core.errors import NumericalError
from ..samples.batches import InOrder

_MOST = 700.0
"""Nats whose exponent is still a number."""


@dataclass(frozen=True)
class Judged:
    """Mean ``loss`` in nats; ``score`` is the accuracy in per cent, of text the perplexity. ``right`` says of every image
    whether it was told rightly; None of text."""

    loss: float
    score: float
    right: Tensor | None = None


def loss_of(model: nn.Module, inputs: Tensor, answers: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of labels, or of every next token where ``inputs`` are windows of tokens."""
    return _cross_entropy(logits_of(model, inputs), inputs, answers, smoothing)


def _cross_entropy(logits: Tensor, inputs: Tensor, answers: Tensor, smoothing: float) -> Tensor:
    if not inputs.is_floating_point():
        logits, answers = logits[:, :-1].flatten(0, 1), answers[:, 1:].flatten()
    return cross_entropy(logits.float(), answers, label_smoothing=smoothing)


@dataclass(frozen=True)
class Teacher:
    """A network that another learns from: (1 − w)·CE + w·T²·KL(teacher ‖ student) at temperature T (arXiv:1503.02531)."""

    model: nn.Module
    weight: float = 0.5
    temperature: float = 4.0

    def loss(self, student: nn.Module, inputs: Tensor, answers: Tensor, smoothing: float = 0.0) -> Tensor:
        """The loss of a batch, a mean over its examples or tokens; gradients flow to the student alone."""
        logits = logits_of(student, inputs)
        with torch.no_grad():
            wanted = logits_of(self.model, inputs).float()
        own = _cross_entropy(logits, inputs, answers, smoothing)
        heat = self.temperature
        learnt = (logits.float() / heat).log_softmax(-1).flatten(0, -2)
        taught = (wanted / heat).log_softmax(-1).flatten(0, -2)
        far = kl_div(learnt, taught, reduction="batchmean", log_target=True)
        return (1 - self.weight) * own + self.weight * heat**2 * far


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the network says, whether it gives logits or an output of transformers' that has them."""
    out: Any = model(inputs)
    logits: Tensor = getattr(out, "logits", out)
    return logits


@torch.no_grad()
def judge(model: nn.Module, examples: InOrder) -> Judged:
    """The network in eval mode on all of them; it is left in eval mode.

    Raises:
        NumericalError: if the loss is no number, or too large to be one's exponent.
    """
    model.eval()
    total, right, count = 0.0, [], 0
    for inputs, answers in examples:
        logits = logits_of(model, inputs).float()
        if not inputs.is_floating_point():
            logits, answers = logits[:, :-1].flatten(0, 1), answers[:, 1:].flatten()
        total += float(cross_entropy(logits, answers, reduction="sum"))
        right.append((logits.argmax(1) == answers).cpu())
        count += len(answers)
    loss = total / count
    if not math.isfinite(loss) or (examples.samples.is_text and loss > _MOST):
        raise NumericalError(f"the loss on the test examples is {loss}: the weights are NaN, Inf or far too large.")
    if examples.samples.is_text:
        return Judged(loss, math.exp(loss))
    told = torch.cat(right)
    return Judged(loss, 100 * int(told.sum()) / count, told)


def counts(model: nn.Module) -> dict[str, Any]:
    """Parameters, those that are not zero, and the share of zeros among weights of two dimensions and more; of what a
    parametrization computes the tensors that it gives."""
    parameters = list(_tensors(model))
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    left = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "nonzeros": sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
        "sparsity": 1 - left / max(1, sum(weight.numel() for weight in weights)),
    }


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """What layers compute with, each tensor once."""
    computed = [module for module in model.modules() if parametrize.is_parametrized(module)]
    behind = {id(inner) for module in computed for inner in module.parametrizations.modules()}  # type: ignore[union-attr]
    seen: set[int] = set()
    for module in model.modules():
        if id(module) in behind:
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:  # type: ignore[union-attr]
                yield getattr(module, name)
