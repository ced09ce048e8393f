"""Lessons: what a model that is healed computes of some windows, beside what its teacher does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopLogits:
    """The likeliest tokens of a distribution softmax(z/T): ``ids [.. k]``, their log-probabilities ``logs [.. k]``, and
    ``rest [..]``, the log-probability of all others together."""

    ids: Tensor
    logs: Tensor
    rest: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float) -> TopLogits:
        """Those of ``logits [.. vocabulary]``; ``rest`` is −inf where ``k`` is the whole vocabulary."""
        logs = (logits.float() / temperature).log_softmax(-1)
        top, ids = logs.topk(min(k, logits.shape[-1]), dim=-1)
        return cls(ids, top, log_rest(top))


def log_rest(logs: Tensor) -> Tensor:
    """log(1 − Σ exp(logs)) over the last dimension; what is below the rounding of 1 counts as that."""
    return (1 - logs.double().exp().sum(-1)).clamp_min(1e-8).log().to(logs.dtype)


@dataclass(frozen=True)
class Seen:
    """``logits [windows seqlen vocabulary]``, and ``hidden`` states ``[windows seqlen width]``: what enters the first
    block, then what leaves each."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """One batch. ``pairs`` are places in the hidden states of student and teacher that belong together, ``channels`` the
    teacher's that the student still has (None: all)."""

    ids: Tensor
    student: Seen
    teacher: Seen | None = None
    top: TopLogits | None = None
    pairs: Sequence[tuple[int, int]] = ()
    channels: Tensor | None = None

    def hidden(self, layers: int) -> list[tuple[Tensor, Tensor]]:
        """Hidden states of student and teacher behind some ``layers``, evenly spaced, the last among them."""
        if self.teacher is None:
            raise AssertionError("a loss that needs hidden states has a teacher")
        count = len(self.pairs)
        chosen = sorted({round((k + 1) * count / min(layers, count)) - 1 for k in range(min(layers, count))})
        found = []
        for one, other in (self.pairs[k] for k in chosen):
            target = self.teacher.hidden[other]
            if self.channels is not None:
                target = target[..., self.channels.to(target.device)]
            found.append((self.student.hidden[one].float(), target.float().detach()))
        return found

    def loss_of_tokens(self) -> Tensor:
        """The mean loss of the next token."""
        logits = self.student.logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.ids[:, 1:].flatten())
