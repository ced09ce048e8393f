"""Scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

import torch

from ..core.errors import MissingLibraryError
from .examples import Held, Samples, stratified
from .source import Source, source


@final
@source("digits", paper="https://archive.ics.uci.edu/dataset/80", cost="a moment; ships with scikit-learn")
@dataclass(frozen=True)
class Digits(Source):
    """1,797 real images of digits, 8×8, grey, 10 classes, that scikit-learn brings along: a recipe is tried in seconds."""

    test_share: float = 0.2
    """Share of each class that is tested on and never trained on."""
    seed: int = 0
    """Seed of that choice."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share {self.test_share} must be between 0 and 1")

    def open(self) -> Samples:
        if find_spec("sklearn") is None:
            raise MissingLibraryError(
                "data digits ships with scikit-learn, which is not installed: pip install scikit-learn"
            )
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.from_numpy(found.images * 15).to(torch.uint8).unsqueeze(1)  # 0 to 16 in 17 steps
        labels = torch.from_numpy(found.target).long()
        train, test = stratified(labels, self.test_share, self.seed, "digits")
        return Samples.of_images("digits", Held(images[train], labels[train]), Held(images[test], labels[test]), 10)
