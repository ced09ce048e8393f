"""Quality of a language model, from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .intervals import Interval, mean_interval


@dataclass
class Perplexity:
    """exp of the mean token loss over non-overlapping windows of one length; each predicts all its tokens but the first.

    ``losses`` are the windows' mean token losses in nats, ``scored`` and ``tokens`` count all windows' tokens.
    """

    losses: list[float] = field(default_factory=list)
    scored: int = 0
    tokens: int = 0

    def add(self, logits: Tensor, ids: Tensor) -> None:
        """Count windows: ``logits [windows seqlen vocabulary]``, ``ids [windows seqlen]``."""
        found = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device), reduction="none"
        )
        self.losses += found.view(len(ids), -1).double().mean(1).tolist()
        self.scored += ids[:, 1:].numel()
        self.tokens += ids.numel()

    @property
    def value(self) -> float:
        """The perplexity; inf where the mean loss overflows."""
        return _exp(self.loss)

    @property
    def loss(self) -> float:
        """Mean token loss in nats."""
        return _mean(self.losses)

    def interval(self) -> Interval | None:
        """Of the perplexity on text like this, by its windows."""
        return _exponential(_interval(self.losses))

    def times(self, other: Perplexity) -> Interval | None:
        """Of this perplexity as a multiple of another's, which read the same windows: what is hard in both cancels."""
        return _exponential(_interval([a - b for a, b in zip(self.losses, other.losses, strict=True)]))


@dataclass
class Divergence:
    """Mean KL(dense ‖ pruned) a token in nats, and how often both find the same token likeliest.

    ``kls`` and ``agreements`` are the windows' means; windows have one length.
    """

    kls: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def add(self, dense: Tensor, pruned: Tensor) -> None:
        """Count positions: logits ``[windows seqlen vocabulary]`` of both models on the same ids."""
        p, q = dense.log_softmax(-1), pruned.to(dense.device).log_softmax(-1)
        self.kls += (p.exp() * (p - q)).sum(-1).clamp_min(0).double().mean(-1).tolist()
        self.agreements += (p.argmax(-1) == q.argmax(-1)).double().mean(-1).tolist()

    @property
    def kl(self) -> float:
        return _mean(self.kls)

    @property
    def agreement(self) -> float:
        return _mean(self.agreements)

    def kl_interval(self) -> Interval | None:
        """Of the mean KL on text like this."""
        return _interval(self.kls)

    def agreement_interval(self) -> Interval | None:
        """Of the agreement on text like this."""
        found = _interval(self.agreements)
        return found and Interval(max(0.0, found.low), min(1.0, found.high), found.level)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _interval(values: Sequence[float]) -> Interval | None:
    return mean_interval(values) if all(map(math.isfinite, values)) else None


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _exponential(found: Interval | None) -> Interval | None:
    return found and Interval(_exp(found.low), _exp(found.high), found.level)
