"""The loop: epochs of steps, judged and kept after each, and gone on with where a stopped run was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.errors import NumericalError
from ..core.progress import Progress
from ..core.seeded import seeded
from ..samples.batches import InOrder, Shuffled
from ..samples.examples import Samples
from .compiled import compiled, forget_compiled
from .judge import Teacher, counts, judge, loss_of
from .kept import load_state, save_state
from .operations import Operations
from .training import Training, autocast, optimizer_of, rate, set_rate

_PRIME = 1_000_003
_CLOSE = 20
"""Batches between two looks whether the loss is a number; looking waits for a GPU."""


class Sparsity(Protocol):
    """Zeros that are held or moved while a network is trained."""

    @property
    def dense_gradients(self) -> float:
        """In which share of steps the gradients of dropped weights are looked at."""

    def step(self) -> None:
        """A step of the optimizer is done."""

    def finish(self) -> Any:
        """Training is over."""

    def state_dict(self) -> dict[str, Any]: ...


Sparsify = Callable[[nn.Module, Optimizer, int, Mapping[str, Any] | None], Sparsity | None]
"""Begins to hold zeros in a model, stepped by an optimizer so many times, or goes on from a state; None: there are none."""


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


@dataclass(frozen=True)
class Course:
    """Where training begins and what is seen of it: weights are those behind the ``first`` steps, which are left out;
    ``looks`` at the test examples an epoch are told one by one (0: that behind it alone); ``behind`` some step ``at`` is
    told of the model as it is then."""

    first: int = 0
    looks: int = 0
    at: int | None = None
    behind: Callable[[nn.Module], None] = lambda model: None
    teacher: Teacher | None = None
    """What it learns from beside the answers."""


def train(model: nn.Module, samples: Samples, training: Training, sparsify: Sparsify | None, kept: Kept,
          progress: Progress, course: Course | None = None) -> list[dict[str, Any]]:  # fmt: skip
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
    course = course or Course()
    teacher = course.teacher
    example = samples.example().to(device)
    operations = Operations.of(model, example)
    taught = Operations.of(teacher.model, example).sparse() if teacher is not None else 0.0
    called = model
    if training.compile:
        forget_compiled(device)
        called = compiled(model)
        teacher = replace(teacher, model=compiled(teacher.model)) if teacher is not None else None
    run = _Run(model, called, teacher, optimizer, shuffled, tests, training, course, progress, operations, taught)
    history: list[dict[str, Any]] = []
    begin, sparse = run.course.first // len(shuffled), None
    if state is not None and state["epoch"]:
        optimizer.load_state_dict(state["optimizer"])
        history, begin, sparse = state["history"], state["epoch"], state["sparsity"]
    if sparsify is not None and steps > run.course.first:
        run.sparsity = sparsify(model, optimizer, steps - run.course.first, sparse)
    progress.start(f"Training {kept.run}", steps)
    for _ in range(max(run.course.first, begin * len(shuffled))):
        progress.step("done before")
    if run.course.at == 0 and not history:
        run.course.behind(model)
    for epoch in range(begin, training.epochs):
        history.append(run.epoch(epoch))
        kept.save({
            "epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history,
            "sparsity": run.sparsity.state_dict() if run.sparsity is not None else None,
        })  # fmt: skip
    if run.sparsity is not None:
        run.sparsity.finish()
    return history


@dataclass
class _Run:
    """Training under way."""

    model: nn.Module
    called: nn.Module
    """The same parameters behind the forward pass that is carried out."""
    teacher: Teacher | None
    """The course's, as its forward pass is carried out."""
    optimizer: Optimizer
    shuffled: Shuffled
    tests: InOrder
    training: Training
    course: Course
    progress: Progress
    operations: Operations
    taught: float
    """Operations of the teacher's forward pass of one example."""
    sparsity: Sparsity | None = None

    def epoch(self, epoch: int) -> dict[str, Any]:
        """One pass over the training examples, or what is left of it, and what it came to."""
        began = perf_counter()
        self.called.train()
        first, device = epoch * len(self.shuffled), self.shuffled.device
        skipped = max(0, self.course.first - first)
        total = torch.zeros((), device=device)
        looks, seen, before = [], 0, self.operations.sparse()
        with seeded(self.training.seed * _PRIME + epoch, device):
            for number, (inputs, answers) in enumerate(self.shuffled.epoch(epoch)):
                if number < skipped:
                    continue
                total += self._step(first + number, inputs, answers)
                seen += len(inputs)
                note = ""
                if number % _CLOSE == 0:
                    self._require_number(float(total), epoch, number)
                    note = f"epoch {epoch + 1}, loss {float(total) / (number + 1 - skipped):.3f}"
                self.progress.step(note)
                if first + number + 1 == self.course.at:
                    self.course.behind(self.model)
                if self._looks_behind(number):
                    looks.append(self._look(first + number + 1))
                    self.called.train()
        self._require_number(float(total), epoch, len(self.shuffled) - 1)
        last = self._look(first + len(self.shuffled))
        found = {
            "epoch": epoch + 1, "loss": float(total) / (len(self.shuffled) - skipped), "test_loss": last["test_loss"],
            "test_score": last["test_score"], "sparsity": counts(self.model)["sparsity"],
            "flops": seen * (self.taught + self._flops((before + self.operations.sparse()) / 2)),
            "seconds": round(perf_counter() - began, 3),
        }  # fmt: skip
        return {**found, "looks": [*looks, last]} if self.course.looks else found

    def _step(self, step: int, inputs: Tensor, answers: Tensor) -> Tensor:
        set_rate(self.optimizer, rate(step, self.training.epochs * len(self.shuffled), self.training))
        self.optimizer.zero_grad()
        with autocast(self.training, self.shuffled.device):
            learn = loss_of if self.teacher is None else self.teacher.loss
            loss = learn(self.called, inputs, answers, self.training.label_smoothing)
        loss.backward()
        self.optimizer.step()
        if self.sparsity is not None:
            self.sparsity.step()
        return loss.detach()

    def _flops(self, forward: float) -> float:
        """Operations of a step of the student for one example, of which a forward pass has so many."""
        return self.operations.step(forward, self.sparsity.dense_gradients if self.sparsity is not None else 0.0)

    def _looks_behind(self, number: int) -> bool:
        """Whether the test examples are looked at behind this batch of an epoch, which is not its last."""
        count, looks = len(self.shuffled), self.course.looks
        return number + 1 < count and (number + 1) * looks // count > number * looks // count

    def _look(self, step: int) -> dict[str, Any]:
        found = judge(self.called, self.tests)
        return {"step": step, "test_loss": found.loss, "test_score": found.score}

    def _require_number(self, loss: float, epoch: int, batch: int) -> None:
        if not math.isfinite(loss):
            float32 = " or precision float32" if self.training.precision != "float32" else ""
            raise NumericalError(
                f"the loss is {loss} in epoch {epoch + 1}, by batch {batch + 1}, at a learning rate of up to "
                f"{self.training.lr:g}. Try a lower lr, some warmup{float32}."
            )
