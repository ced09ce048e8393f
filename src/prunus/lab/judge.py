"""What a network says of examples, as a loss and as a figure of merit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from ..samples.batches import InOrder


@dataclass(frozen=True)
class Judged:
    """Mean ``loss`` in nats; ``score`` is the accuracy in per cent, of text the perplexity."""

    loss: float
    score: float


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
    """The network in eval mode on all of them; it is left in eval mode."""
    model.eval()
    total, right, count = 0.0, 0, 0
    for inputs, answers in examples:
        logits = logits_of(model, inputs).float()
        if not inputs.is_floating_point():
            logits, answers = logits[:, :-1].flatten(0, 1), answers[:, 1:].flatten()
        total += float(cross_entropy(logits, answers, reduction="sum"))
        right += int((logits.argmax(1) == answers).sum())
        count += len(answers)
    loss = total / count
    return Judged(loss, perplexity_of(loss) if examples.samples.is_text else 100 * right / count)


def counts(model: nn.Module) -> dict[str, Any]:
    """Parameters, those that are not zero, and the share of zeros among weights of two dimensions and more."""
    parameters = list(model.parameters())
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    left = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "nonzeros": sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
        "sparsity": 1 - left / max(1, sum(weight.numel() for weight in weights)),
    }


def perplexity_of(loss: float) -> float:
    """exp of a loss in nats; infinite where that is too large for a number."""
    return math.exp(loss) if loss < 700 else math.inf
