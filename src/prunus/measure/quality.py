"""Quality of a language model, from its logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Perplexity:
    """exp of the mean token loss over non-overlapping windows; each window predicts all its tokens but the first."""

    loss: float = 0.0
    scored: int = 0
    tokens: int = 0

    def add(self, logits: Tensor, ids: Tensor) -> None:
        """Count windows: ``logits [windows seqlen vocabulary]``, ``ids [windows seqlen]``."""
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device), reduction="sum"
        )
        self.loss += float(losses.double())
        self.scored += ids[:, 1:].numel()
        self.tokens += ids.numel()

    @property
    def value(self) -> float:
        """The perplexity; inf where the mean loss overflows."""
        mean = self.loss / self.scored
        return math.exp(mean) if mean < 700 else math.inf


@dataclass
class Divergence:
    """Mean KL(dense ‖ pruned) a token in nats, and how often both find the same token likeliest."""

    total: float = 0.0
    agreed: int = 0
    tokens: int = 0

    def add(self, dense: Tensor, pruned: Tensor) -> None:
        """Count positions: logits ``[windows seqlen vocabulary]`` of both models on the same ids."""
        p, q = dense.log_softmax(-1), pruned.to(dense.device).log_softmax(-1)
        self.total += float((p.exp() * (p - q)).sum(-1).clamp_min(0).sum().double())
        self.agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        self.tokens += p[..., 0].numel()

    @property
    def kl(self) -> float:
        return self.total / self.tokens

    @property
    def agreement(self) -> float:
        return self.agreed / self.tokens
