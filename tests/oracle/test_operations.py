"""Operations of training against their closed forms, written out layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.core.progress import Silent
from prunus.lab.judge import Teacher
from prunus.lab.loop import Course, Kept, train
from prunus.lab.operations import Operations
from prunus.lab.training import Training
from prunus.samples.examples import Held, Samples
from prunus.verbs.sparsifier import Sparsifier
from prunus.zoo.build import build


class Small(nn.Module):
    """A grouped convolution with a stride, one that is used twice, a matrix that is no module's, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.Conv2d(4, 4, 3, 1, 1)
        self.bare = nn.Parameter(torch.randn(4, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.conv2(self.conv1(x)).relu()).mean((2, 3))
        return self.fc(x @ self.bare)


CONV1, CONV2, BARE, FC = 2 * 16 * 4 * 1 * 9, 2 * 2 * 16 * 4 * 4 * 9, 2 * 16, 2 * 12
"""Twice the places, the outputs, the inputs of each and the kernel's; the second convolution twice."""


def test_forward_operations_are_those_counted_by_hand() -> None:
    model = Small()
    found = Operations.of(model, torch.randn(1, 2, 8, 8))
    assert found.layers == {model.conv1: CONV1, model.conv2: CONV2, model.fc: FC}
    assert found.rest == BARE
    assert found.dense == found.sparse() == CONV1 + CONV2 + BARE + FC
    with torch.no_grad():
        model.conv2.weight.view(-1)[:36] = 0
        model.fc.weight[0] = 0
        model.bare.zero_()
    assert found.sparse() == pytest.approx(CONV1 + CONV2 * (1 - 36 / 144) + BARE + FC * 2 / 3)


def test_a_step_is_three_passes_and_whole_gradients_where_they_are_looked_at() -> None:
    found = Operations.of(Small(), torch.randn(1, 2, 8, 8))
    half = found.dense / 2
    assert found.step(found.dense, 1.0) == 3 * found.dense
    assert found.step(half, 0.0) == 3 * half
    assert found.step(half, 1.0) == 2 * half + found.dense
    assert found.step(half, 0.25) == pytest.approx(2 * half + 0.25 * found.dense + 0.75 * half)


def test_a_tied_head_counts_and_attention_does() -> None:
    tokens, width, wide, vocabulary = 8, 32, 128, 300
    model = build("decoder:layers=2,width=32,heads=2", 0, {"vocabulary": vocabulary})
    found = Operations.of(model, torch.zeros(1, tokens, dtype=torch.long))
    linear = 2 * tokens * (4 * width * width + 3 * width * wide)
    assert sum(found.layers.values()) == 2 * linear + 2 * tokens * width * vocabulary
    attention = 2 * 2 * 2 * tokens * tokens * width
    assert attention <= found.rest <= 1.1 * attention, "and the angles of positions"


IMAGES = torch.randint(0, 255, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SETTINGS = Training(
    epochs=2, batch=8, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0, lr_schedule="cosine",
    warmup=0.0, milestones=(), label_smoothing=0.0, crop=0, flip=False, precision="float32", compile=False, seed=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "whole"), [(None, 0.0), ("fixed", 0.0), ("rigl:every=2,end=0.5", 0.25), ("srste", 1.0)]
)
def test_epochs_tell_what_they_computed(schedule: str | None, whole: float, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    held = Held(IMAGES, torch.arange(40) % 3)
    samples = Samples.of_images("noise", held, held, 3)
    dense = 2 * (16 * 8 + 8 * 3)
    left = dense if schedule is None else dense / 2
    sparsify = None
    if schedule is not None:

        def sparsify(net, optimizer, steps, state):
            return Sparsifier(net, optimizer, schedule, steps=steps, sparsity=0.5, allocation="uniform")

    history = train(model, samples, SETTINGS, sparsify, Kept(tmp_path / "s", "r", lambda entry: None), Silent())
    for epoch in history:
        assert epoch["flops"] == pytest.approx(40 * (2 * left + whole * dense + (1 - whole) * left))


def test_a_teacher_costs_its_forward_pass(tmp_path: Path) -> None:
    held = Held(IMAGES, torch.arange(40) % 3)
    samples = Samples.of_images("noise", held, held, 3)
    model, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2))
    course = Course(teacher=Teacher(teacher.eval()))
    history = train(model, samples, SETTINGS, None, Kept(tmp_path / "s", "r", lambda entry: None), Silent(), course)
    assert history[0]["flops"] == 40 * 4 * 2 * 48
