"""The loop: epochs of steps, judged and kept after each, and gone on with where a stopped run was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ..core.errors import NumericalError
from ..core.progress import Progress
from ..samples.batches import InOrder, Shuffled
from ..samples.examples import Samples
from .judge import counts, judge, loss_of
from .kept import load_state, save_state
from .training import Training, autocast, optimizer_of, rate, set_rate

_PRIME = 1_000_003
_CLOSE = 20
"""Batches between two looks whether the loss is a number; looking waits for a GPU."""


class Sparsity(Protocol):
    """Zeros that are held or moved while a network is trained."""

    def step(self) -> None:
        """A step of the optimizer is done."""

    def finish(self) -> Any:
        """Training is over."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Sparsify = Callable[[nn.Module, Optimizer, int], Sparsity]
"""Begins to hold zeros in a model, stepped by an optimizer so many times."""


@dataclass(frozen=True)
class Kept:
    """The file that a run's state is kept in, what tells the run from others, and who is told of every epoch kept."""

    path: Path
    run: str
    mark: Callable[[dict[str, Any]], None]

    def load(self) -> dict[str, Any] | None:
        """The run's last state, if there is one."""
        if not self.path.is_file():
            return None
        state = load_state(self.path)
        return state if state["run"] == self.run else None

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in the place of the one before."""
        save_state(self.path, {"run": self.run, **state})
        self.mark({"run": self.run, "epoch": state["epoch"]})


def train(model: nn.Module, samples: Samples, training: Training, sparsify: Sparsify | None, kept: Kept,
          progress: Progress) -> list[dict[str, Any]]:  # fmt: skip
    """Train a network in place, on the device that it is on; what every epoch came to.

    It begins with the state that is kept, where there is one. The weights are those behind the last epoch: none are
    chosen by the test examples. The random numbers of an epoch follow from the seed and its number, so that a resumed
    run is an uninterrupted one.

    Raises:
        NumericalError: if the loss becomes NaN or Inf.
    """
    device = next(model.parameters()).device
    shuffled = Shuffled(samples, training.batch, device, training.seed, training.crop, training.flip)
    tests = InOrder(samples, samples.test, training.batch, device)
    state = kept.load()
    if state is not None:
        model.load_state_dict(state["model"])
    optimizer = optimizer_of(training, model.parameters())
    steps = training.epochs * len(shuffled)
    sparsity = sparsify(model, optimizer, steps) if sparsify is not None and steps else None
    history: list[dict[str, Any]] = []
    if state is not None and state["epoch"]:
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        if sparsity is not None:
            sparsity.load_state_dict(state["sparsity"])
    progress.start(f"Training {kept.run}", steps)
    for _ in range(len(history) * len(shuffled)):
        progress.step("done before")
    for epoch in range(len(history), training.epochs):
        began = perf_counter()
        loss = _epoch(model, optimizer, sparsity, shuffled, training, epoch, progress)
        found = judge(model, tests)
        history.append({
            "epoch": epoch + 1, "loss": loss, "test_loss": found.loss, "test_score": found.score,
            "sparsity": counts(model)["sparsity"], "seconds": round(perf_counter() - began, 3),
        })  # fmt: skip
        kept.save({
            "epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history,
            "sparsity": sparsity.state_dict() if sparsity is not None else None,
        })  # fmt: skip
    if sparsity is not None:
        sparsity.finish()
    return history


def _epoch(model: nn.Module, optimizer: Optimizer, sparsity: Sparsity | None, shuffled: Shuffled, training: Training,
           epoch: int, progress: Progress) -> float:  # fmt: skip
    """One pass over the training examples; the mean loss."""
    model.train()
    steps, first = training.epochs * len(shuffled), epoch * len(shuffled)
    device = shuffled.device
    total = torch.zeros((), device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed * _PRIME + epoch)
        for number, (inputs, answers) in enumerate(shuffled.epoch(epoch)):
            set_rate(optimizer, rate(first + number, steps, training))
            optimizer.zero_grad()
            with autocast(training, device):
                loss = loss_of(model, inputs, answers, training.label_smoothing)
            loss.backward()
            optimizer.step()
            if sparsity is not None:
                sparsity.step()
            total += loss.detach()
            if number % _CLOSE == 0:
                _require_number(float(total), epoch, number, training)
            progress.step(f"epoch {epoch + 1}, loss {float(total) / (number + 1):.3f}" if number % _CLOSE == 0 else "")
    mean = float(total) / len(shuffled)
    _require_number(mean, epoch, len(shuffled) - 1, training)
    return mean


def _require_number(loss: float, epoch: int, batch: int, training: Training) -> None:
    if not math.isfinite(loss):
        float32 = " or precision float32" if training.precision != "float32" else ""
        raise NumericalError(
            f"the loss is {loss} in epoch {epoch + 1}, by batch {batch + 1}, at a learning rate of up to {training.lr:g}. "
            f"Try a lower lr, some warmup{float32}."
        )
