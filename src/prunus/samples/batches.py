"""Batches: in order to judge, in an order of chance and augmented to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .augment import cropped, flipped
from .examples import Examples, Samples

_PRIME = 1_000_003


@dataclass(frozen=True)
class InOrder:
    """Normalised examples of a split with their answers, all in order or those at ``places [n]``; can be gone through again
    and again."""

    samples: Samples
    examples: Examples
    batch: int
    device: torch.device
    places: Tensor | None = None

    @classmethod
    def some(cls, samples: Samples, most: int, batch: int, device: torch.device, seed: int) -> InOrder:
        """So many training examples, drawn by the seed."""
        chance = torch.Generator().manual_seed(seed)
        return cls(samples, samples.train, batch, device, torch.randperm(len(samples.train), generator=chance)[:most])

    def __len__(self) -> int:
        return -(-len(self._all()) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for places in self._all().split(self.batch):
            inputs, answers = self.examples.take(places)
            yield self.samples.normalised(inputs.to(self.device)), answers.to(self.device)

    def _all(self) -> Tensor:
        return torch.arange(len(self.examples)) if self.places is None else self.places


@dataclass(frozen=True)
class Shuffled:
    """Training examples in orders of chance. Images are cut out of themselves with ``crop`` pixels of black around, and
    every other one is mirrored where ``flip``. What an epoch gives follows from ``seed`` and its number alone."""

    samples: Samples
    batch: int
    device: torch.device
    seed: int = 0
    crop: int = 0
    flip: bool = False

    def __len__(self) -> int:
        """Batches of an epoch; the last is left out where it would be a single example, which batch norms refuse."""
        count = len(self.samples.train)
        return max(1, count // self.batch + (count % self.batch > 1))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch."""
        chance = torch.Generator().manual_seed(self.seed * _PRIME + number)
        order = torch.randperm(len(self.samples.train), generator=chance)
        for places in order.split(self.batch)[: len(self)]:
            inputs, answers = self.samples.train.take(places)
            if self.crop:
                inputs = cropped(inputs, self.crop, chance)
            if self.flip:
                inputs = flipped(inputs, chance)
            yield self.samples.normalised(inputs.to(self.device)), answers.to(self.device)
