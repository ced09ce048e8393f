"""What a Sparsifier adds to a training step.

    python benchmarks/sparsifier_cost.py [MODEL…]

The same network is trained with one and without by turns of a few steps, on one thread, in processor time. A step takes
examples out of memory and goes forward, back, and on. ``own_ms`` of a step are spent in the Sparsifier; ``change_ms`` more
where masks change, every hundredth step; ``cost`` is own_ms + change_ms / 100 over the median step without. ``added_ms`` is
the median of (a step with − a step without), which holds what zeros do to others' speed as well, and noise.
``torch.nn.utils.prune`` stands beside the schedules: masks that stay, as torch itself holds them; its cost is a difference,
which is told where turns are long enough.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.optim import SGD, AdamW, Optimizer

import prunus
from prunus.train.in_step import InStep
from prunus.zoo.build import build
from rows import Rows

EVERY = 100
TORCH = "torch.nn.utils.prune"
MODELS: dict[str, tuple[str, dict[str, int], int, int]] = {
    "mlp": ("lenet-300-100", {"channels": 1, "size": 28, "classes": 10}, 128, 20),
    "resnet20": ("resnet20", {"channels": 3, "size": 32, "classes": 10}, 128, 1),
    "decoder": ("decoder:layers=6,width=256,heads=8", {"vocabulary": 4096}, 8, 1),
}
"""Spelling, what the data would say, examples a step, steps a turn."""
TURNS = {1: 5, 20: 25}
"""How many, by their steps."""
SEQLEN = 256
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {  # so slow that gradients on one batch do not fade to denormal numbers
    "sgd": lambda parameters: SGD(parameters, lr=1e-6, momentum=0.9),
    "adamw-fused": lambda parameters: AdamW(parameters, lr=1e-6, fused=True),
    "adamw": lambda parameters: AdamW(parameters, lr=1e-6),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "fixed": {"sparsity": 0.9}, f"gradual:every={EVERY},begin=0,end=1": {"sparsity": 0.9},
    f"set:every={EVERY}": {"sparsity": 0.9}, f"rigl:every={EVERY}": {"sparsity": 0.9},
    f"movement:every={EVERY},begin=0": {"sparsity": 0.9}, "srste": {"sparsity": "2:4"}, TORCH: {},
}  # fmt: skip
STEPS = 1_000_000


class Inside:
    """Seconds spent in the Sparsifier's own code."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for owner, names in ((InStep, ("arrived", "before")), (prunus.Sparsifier, ("_after", "step"))):
            for name in names:
                setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, work: Callable[..., None]) -> Callable[..., None]:
        """The same, its time taken."""

        def timed(*given: Any) -> None:
            start = process_time()
            work(*given)
            self.seconds += process_time() - start

        return timed


INSIDE = Inside()


class Training:
    """A network that makes one step after another."""

    def __init__(self, name: str, optimizer: str, schedule: str | None) -> None:
        spec, given, self.batch, self.steps = MODELS[name]
        self.model = build(spec, 0, given)
        self.chance = torch.Generator().manual_seed(0)
        many = 16 * self.batch
        if "vocabulary" in given:
            self.inputs = torch.randint(0, given["vocabulary"], (many, SEQLEN), generator=self.chance)
        else:
            self.inputs = torch.randn(many, given["channels"], given["size"], given["size"], generator=self.chance)
        self.labels = torch.randint(0, 10, (many,), generator=self.chance)
        if schedule == TORCH:
            for module in self.model.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    prune.l1_unstructured(module, "weight", 0.9)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.sparsity: prunus.Sparsifier | None = None
        if schedule not in (None, TORCH):
            settings = {**SCHEDULES[schedule], "exclude": misfits(self.model) if schedule == "srste" else ()}
            self.sparsity = prunus.Sparsifier(self.model, self.optimizer, schedule, steps=STEPS, **settings)

    def turn(self, at: int, steps: int) -> tuple[float, float]:
        """Seconds of each of some steps, from the ``at``-th of training on as far as the schedule is told; and of them in
        the Sparsifier."""
        if self.sparsity is not None:
            self.sparsity.load_state_dict({**self.sparsity.state_dict(), "step": at - 1})
        start, INSIDE.seconds = process_time(), 0.0
        for _ in range(steps):
            chosen = torch.randint(0, len(self.inputs), (self.batch,), generator=self.chance)
            self.optimizer.zero_grad()
            self.loss(chosen).backward()
            self.optimizer.step()
            if self.sparsity is not None:
                self.sparsity.step()
        return (process_time() - start) / steps, INSIDE.seconds / steps

    def loss(self, chosen: Tensor) -> Tensor:
        """Of some examples."""
        inputs = self.inputs[chosen]
        if inputs.dim() == 2:
            logits = self.model(input_ids=inputs).logits
            return functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
        return functional.cross_entropy(self.model(inputs), self.labels[chosen])


def misfits(model: nn.Module) -> list[str]:
    """Layers whose inputs do not come in fours."""
    return [name for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.in_channels * module.kernel_size[0] ** 2 % 4]  # fmt: skip


def cost(name: str, optimizer: str, schedule: str) -> dict[str, float]:
    """Seconds without and with, and what both come to."""
    dense, sparse = Training(name, optimizer, None), Training(name, optimizer, schedule)
    steps = dense.steps
    turns = []
    for at in range(TURNS[steps] + 2):  # two to warm up
        pair = (dense, sparse) if at % 2 else (sparse, dense)  # neither always first
        found = {one: one.turn(EVERY * at + 1, steps) for one in pair}
        turns.append((found[dense][0], *found[sparse]))
    without, added = statistics.median(a for a, _, _ in turns[2:]), statistics.median(b - a for a, b, _ in turns[2:])
    own = statistics.median(inside for _, _, inside in turns[2:]) if sparse.sparsity is not None else added
    change = 0.0
    if sparse.sparsity is not None and sparse.sparsity.schedule.due(EVERY, STEPS):
        change = max(0.0, statistics.median(sparse.turn(EVERY * at, 1)[1] for at in range(1, 6)) - own)
    found_ms = {"step": without, "added": added, "own": own, "change": change}
    told = {f"{key}_ms": round(seconds * 1e3, 3) for key, seconds in found_ms.items()}
    return {**told, "cost": round((own + change / EVERY) / without, 4)}


def main() -> None:
    """Every model with both optimizers and all schedules."""
    torch.set_num_threads(1)
    rows = Rows(Path(__file__).parent / "rows" / "vision.jsonl")
    for name in sys.argv[1:] or MODELS:
        for optimizer in OPTIMIZERS:
            for schedule in SCHEDULES:
                if schedule == TORCH and MODELS[name][3] == 1:
                    continue
                rows.add(what="sparsifier_cost", model=name, optimizer=optimizer, schedule=schedule,
                         threads=1, **cost(name, optimizer, schedule))  # fmt: skip


if __name__ == "__main__":
    main()
