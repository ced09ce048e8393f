"""How one network is trained: settings, optimizers, learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "constant")
PRECISIONS = ("float32", "bfloat16")
_STEP = 0.1


@dataclass(frozen=True)
class Training:
    """Settings of one training run. ``batch`` are examples of a step; ``warmup`` and ``milestones`` shares of all steps;
    ``crop`` pixels; ``compile`` fuses a step's operations (torch.compile); ``seed`` decides the order of examples, their
    augmentation and what dropout drops."""

    epochs: int
    batch: int
    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    lr_schedule: str
    warmup: float
    milestones: tuple[float, ...]
    label_smoothing: float
    crop: int
    flip: bool
    precision: str
    compile: bool
    seed: int


def optimizer_of(training: Training, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer that the settings name, all of a step in one call: of networks of a few hundred thousand weights half
    a step was the optimizer's. ``momentum`` is SGD's alone."""
    if training.optimizer == "sgd":
        return SGD(
            parameters, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov,
            weight_decay=training.weight_decay, fused=True,
        )  # fmt: skip
    kind = Adam if training.optimizer == "adam" else AdamW
    return kind(parameters, lr=training.lr, weight_decay=training.weight_decay, fused=True)


def rate(step: int, steps: int, training: Training) -> float:
    """The learning rate of one of ``steps``, counted from 0: it rises over the warm-up, then falls by half a cosine to 0,
    to a tenth at each milestone, or not at all."""
    rising = round(training.warmup * steps)
    if step < rising:
        return training.lr * (step + 1) / rising
    if training.lr_schedule == "cosine":
        return training.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
    if training.lr_schedule == "step":
        return training.lr * _STEP ** sum(step >= share * steps for share in training.milestones)
    return training.lr


def set_rate(optimizer: Optimizer, value: float) -> None:
    """Give all groups of parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """Products in bfloat16, where the settings want that."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bfloat16")
