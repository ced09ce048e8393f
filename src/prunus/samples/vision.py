"""Datasets of torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch

from ..core.errors import DataError, MissingLibraryError
from ..core.registry import suggest
from .examples import Held, Samples, checked_labels
from .source import Source, source


@final
@source("torchvision", paper="https://docs.pytorch.org/vision/stable/datasets.html", cost="all images in memory")
@dataclass(frozen=True)
class Torchvision(Source):
    """One of torchvision's datasets that hold all images in one array, downloaded before.

    MNIST, FashionMNIST, KMNIST, CIFAR10, CIFAR100 are such. Torchvision reads them in its own way, CIFAR's by unpickling.
    """

    name: str = ""
    """Its class in torchvision.datasets."""
    root: str = "."
    """Folder that it was downloaded to."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("it needs a name, torchvision:CIFAR10")

    def open(self) -> Samples:
        if find_spec("torchvision") is None:
            raise MissingLibraryError(
                f"data torchvision:{self.name} needs torchvision, which is not installed: pip install torchvision. "
                "Without it prunus reads idx files (mnist, fashion-mnist), CIFAR's binary version (cifar10) and others."
            )
        from torchvision import datasets

        kind = getattr(datasets, self.name, None)
        if not isinstance(kind, type):
            raise DataError(f"torchvision has no dataset '{self.name}'{suggest(self.name, datasets.__all__)}.")
        train, test = (self._held(kind, train) for train in (True, False))
        classes = checked_labels(train.answers, None, self.name)
        checked_labels(test.answers, classes, self.name)
        return Samples.of_images(self.name, train, test, classes)

    def _held(self, kind: Any, train: bool) -> Held:
        try:
            found = kind(root=str(Path(self.root).expanduser()), train=train, download=False)
        except (RuntimeError, OSError, TypeError) as error:
            raise DataError(f"torchvision {self.name}: cannot be opened in {self.root} ({error}).") from error
        if not hasattr(found, "data") or not hasattr(found, "targets"):
            raise DataError(f"torchvision {self.name}: it does not hold its images in one array; give images:FOLDER.")
        images = torch.as_tensor(found.data)
        if images.dtype != torch.uint8 or images.dim() not in (3, 4):
            raise DataError(
                f"torchvision {self.name}: images are {images.dtype} {list(images.shape)}, not uint8 [N H W C]."
            )
        shaped = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        return Held(shaped, torch.as_tensor(found.targets).long())
