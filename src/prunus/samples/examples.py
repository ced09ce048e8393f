"""Examples with their answers, held in memory or read when asked for, and the two splits of them that a run has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.errors import DataError

_MOST_CLASSES = 2**20
"""More than any data set has."""
_LOOKED_AT = 8192
"""Training examples, evenly spaced, that means and deviations are taken from."""


class Examples(Protocol):
    """Examples that can be taken by their places."""

    def __len__(self) -> int: ...

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Those at ``places [n]``: images ``uint8 [n C H W]`` with labels ``[n]``, or windows ``int64 [n tokens]``, which
        are their own answers."""

    def digest(self) -> str:
        """SHA-256 that tells them from others."""


@dataclass(frozen=True)
class Held:
    """Examples in memory."""

    inputs: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[places], self.answers[places]

    def digest(self) -> str:
        seen = hashlib.sha256(self.inputs.contiguous().numpy().tobytes())
        seen.update(self.answers.contiguous().numpy().tobytes())
        return seen.hexdigest()


@dataclass(frozen=True)
class Read:
    """Examples that ``read(place)`` gives one by one, ``uint8 [C H W]``; their ``labels [n]`` are known. ``says`` is what
    tells them from others."""

    read: Callable[[int], Tensor]
    labels: Tensor
    says: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as readers:
            images = list(readers.map(self.read, places.tolist()))
        return torch.stack(images), self.labels[places]

    def digest(self) -> str:
        seen = hashlib.sha256(self.says.encode())
        seen.update(self.labels.numpy().tobytes())
        return seen.hexdigest()


@dataclass(frozen=True)
class Samples:
    """What a run trains on and is judged on. ``mean`` and ``std [C]`` are those of training images in [0, 1]; of text they
    are None, and ``tokenizer`` is the tokenizer's own JSON."""

    name: str
    train: Examples
    test: Examples
    classes: int
    mean: Tensor | None = None
    std: Tensor | None = None
    tokenizer: str | None = None

    @classmethod
    def of_images(cls, name: str, train: Examples, test: Examples, classes: int) -> Samples:
        """Images, normalised by what the training images are.

        Raises:
            DataError: if a split is empty, their images differ in shape, or a label is outside ``classes``.
        """
        for split, examples in (("training", train), ("test", test)):
            if not len(examples):
                raise DataError(f"{name}: it has no {split} images.")
        shapes = {split: list(examples.take(torch.tensor([0]))[0].shape[1:])
                  for split, examples in (("training", train), ("test", test))}  # fmt: skip
        if shapes["training"] != shapes["test"]:
            raise DataError(f"{name}: training images are {shapes['training']} (C H W), test images {shapes['test']}.")
        mean, std = _normalisation(train)
        return cls(name, train, test, classes, mean, std)

    @property
    def is_text(self) -> bool:
        return self.mean is None

    def example(self) -> Tensor:
        """One test input as the network gets it, ``[1 C H W]`` or ``[1 tokens]``."""
        return self.normalised(self.test.take(torch.tensor([0]))[0])

    def given(self) -> dict[str, int]:
        """What a network is built for: ``channels``, ``size`` and ``classes``, or ``vocabulary`` and ``positions``."""
        one = self.example()
        if self.is_text:
            return {"vocabulary": self.classes, "positions": one.shape[1]}
        return {"channels": one.shape[1], "size": one.shape[2], "classes": self.classes}

    def normalised(self, inputs: Tensor) -> Tensor:
        """Images ``uint8 [n C H W]`` as float32 of mean 0 and deviation 1; windows as they are."""
        if self.mean is None or self.std is None:
            return inputs
        mean, std = (value.to(inputs.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return (inputs.float() / 255 - mean) / std

    def digest(self) -> str:
        """SHA-256 of both splits."""
        return hashlib.sha256((self.train.digest() + self.test.digest()).encode()).hexdigest()


def _normalisation(examples: Examples) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel ``[C]``, of images in [0, 1]."""
    places = torch.linspace(0, len(examples) - 1, min(len(examples), _LOOKED_AT)).long()
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for some in places.split(512):
        images = examples.take(some)[0].double() / 255
        count += images[:, 0].numel()
        total = total + images.sum((0, 2, 3))
        squares = squares + images.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()


def checked_labels(labels: Tensor, classes: int | None, where: str) -> int:
    """The number of classes, ``classes`` or what the labels say.

    Raises:
        DataError: if a label is negative or not under ``classes``, or there is but one class.
    """
    if not len(labels):
        raise DataError(f"{where}: it holds no labels.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        most = "upwards" if classes is None else f"to {classes - 1}"
        raise DataError(f"{where}: labels go from {low} to {high}; wanted are whole numbers from 0 {most}.")
    if classes is None and (high == 0 or high >= _MOST_CLASSES):
        raise DataError(f"{where}: its labels, {low} to {high}, are those of {high + 1:,} classes; number them 0, 1, 2, ….")
    return classes if classes is not None else high + 1


def stratified(labels: Tensor, share: float, seed: int, where: str) -> tuple[Tensor, Tensor]:
    """Places of training and test examples: of every class the same ``share``, drawn by the seed, is for the test.

    Raises:
        DataError: if a class is too small to be in both, or the seed is none.
    """
    if not 0 <= seed < 2**63:
        raise DataError(f"{where}: seed {seed} must be from 0 to below 2^63.")
    chance = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in labels.unique().tolist():
        places = torch.nonzero(labels == label).flatten()
        places = places[torch.randperm(len(places), generator=chance)]
        count = round(share * len(places))
        if not 0 < count < len(places):
            raise DataError(
                f"{where}: class {label} has {len(places)} examples, of which a test share of {share:g} takes {count}. "
                "Give another test_share, or more examples."
            )
        test.append(places[:count])
        train.append(places[count:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values
