"""Images in one numpy file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from ..core.errors import DataError
from .examples import Held, Samples, checked_labels, stratified
from .source import Source, source


@final
@source("npz", paper="https://numpy.org/doc/stable/reference/generated/numpy.savez.html", cost="all images in memory")
@dataclass(frozen=True)
class Npz(Source):
    """Images and labels in one ``.npz`` file, a share of every class held out as the test."""

    path: str = ""
    """The file."""
    test_share: float = 0.2
    """Share of each class that is tested on and never trained on."""
    seed: int = 0
    """Seed of that choice."""
    images: str = "X"
    """Name of the array of images, uint8 [N H W C] or [N H W]."""
    labels: str = "y"
    """Name of the array of labels, whole numbers [N]."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("it needs a path, npz:FILE.npz")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share {self.test_share} must be between 0 and 1")

    def open(self) -> Samples:
        images, labels = self._arrays()
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
            raise DataError(
                f"{self.path}: '{self.images}' is {images.dtype} {list(images.shape)}; wanted is uint8 [N H W C], C 1 or 3."
            )
        if not images.size:
            raise DataError(f"{self.path}: '{self.images}' is {list(images.shape)}, without a pixel.")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            found = f"{labels.dtype} {list(labels.shape)}"
            raise DataError(f"{self.path}: '{self.labels}' is {found}; wanted are {len(images)} whole numbers.")
        answers = torch.from_numpy(labels.astype(np.int64))
        classes = checked_labels(answers, None, self.path)
        inputs = torch.from_numpy(images.reshape(*images.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
        train, test = stratified(answers, self.test_share, self.seed, self.path)
        splits = [Held(inputs[places], answers[places]) for places in (train, test)]
        return Samples.of_images(Path(self.path).stem, splits[0], splits[1], classes)

    def _arrays(self) -> tuple[Any, Any]:
        try:
            with Path(self.path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as held:
                return held[self.images], held[self.labels]
        except KeyError as error:
            raise DataError(f"{self.path}: {str(error).strip(chr(34))}.") from error
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: cannot be read as a .npz file ({error}).") from error
