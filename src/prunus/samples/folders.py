"""Pictures in folders, one a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from ..core.errors import DataError
from .examples import Read, Samples, stratified
from .pictures import as_tensor, need_pillow
from .source import Source, folder_of, source

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
_TESTS = ("test", "val", "validation")


@final
@source("images", paper="https://image-net.org", cost="pictures are decoded when they are used")
@dataclass(frozen=True)
class Images(Source):
    """Pictures in a folder a class, as ImageNet is unpacked.

    The classes' folders are in ``FOLDER/train`` and ``FOLDER/val`` (or ``test``), or in FOLDER alone, of which a share is
    held out then.
    """

    folder: str = ""
    """The folder."""
    size: int = 224
    """Pixels of the square that pictures are cut to."""
    grey: bool = False
    """Read them without colours."""
    test_share: float = 0.2
    """Share of each class that is tested on, where FOLDER has no ``val`` or ``test``."""
    seed: int = 0
    """Seed of that choice."""

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.test_share < 1:
            raise ValueError(f"size {self.size} must be at least 1, test_share {self.test_share} between 0 and 1")

    def open(self) -> Samples:
        need_pillow("data images")
        folder = folder_of("images", self.folder)
        held_out = next((folder / name for name in _TESTS if (folder / name).is_dir()), None)
        if held_out is None or not (folder / "train").is_dir():
            paths, labels, names = _listed(folder)
            train, test = stratified(labels, self.test_share, self.seed, str(folder))
            parts = [([paths[k] for k in places.tolist()], labels[places]) for places in (train, test)]
        else:
            paths, labels, names = _listed(folder / "train")
            others, answers, their = _listed(held_out)
            if their != names:
                odd = sorted(set(names) ^ set(their))
                raise DataError(f"{folder}: train and {held_out.name} have other classes ({', '.join(odd[:5])}).")
            parts = [(paths, labels), (others, answers)]
        splits = [Read(self._reader(some), answers, self._says(some, folder)) for some, answers in parts]
        return Samples.of_images(folder.name, splits[0], splits[1], len(names))

    def _reader(self, paths: Sequence[Path]) -> Callable[[int], Tensor]:
        from PIL import Image

        def read(place: int) -> Tensor:
            try:
                with Image.open(paths[place]) as picture:
                    return as_tensor(picture, self.size, self.grey)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise DataError(f"{paths[place]}: cannot be read as a picture ({error}).") from error

        return read

    def _says(self, paths: Sequence[Path], folder: Path) -> str:
        told = [f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in paths]
        return "\n".join([f"{self.size} {self.grey}", *told])


def _listed(folder: Path) -> tuple[list[Path], Tensor, list[str]]:
    """Pictures below a folder in order, their labels ``[n]``, the classes' names."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths: list[Path] = []
    labels: list[int] = []
    for label, place in enumerate(classes):
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise DataError(f"{place}: this class has no pictures ({', '.join(sorted(_SUFFIXES))}).")
        paths += found
        labels += [label] * len(found)
    if len(classes) < 2:
        raise DataError(
            f"{folder}: {len(classes)} classes are there; wanted is a folder of pictures for each of at least two."
        )
    return paths, torch.tensor(labels), [path.name for path in classes]
