"""Image datasets of Hugging Face's ``datasets``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ..core.errors import DataError
from .examples import Read, Samples, checked_labels, stratified
from .pictures import as_tensor, is_grey, need_pillow
from .source import Source, source

_LABELS = ("label", "labels", "fine_label", "class", "target")
_TESTS = ("test", "validation", "val", "valid")


@final
@source("datasets", paper="https://huggingface.co/docs/datasets", cost="pictures are decoded when they are used")
@dataclass(frozen=True)
class HubImages(Source):
    """A dataset of labelled pictures: an id on the hub, or a folder that ``save_to_disk`` wrote."""

    id: str = ""
    """Id or folder."""
    config: str = ""
    """Which of the dataset's configurations."""
    size: int = 0
    """Pixels of the square that pictures are cut to; 0: as large as they are."""
    test_share: float = 0.2
    """Share of each class that is tested on, where there is no split for it."""
    seed: int = 0
    """Seed of that choice."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("it needs an id, datasets:ID")
        if self.size < 0 or not 0 < self.test_share < 1:
            raise ValueError(f"size {self.size} must be at least 0, test_share {self.test_share} between 0 and 1")

    def open(self) -> Samples:
        need_pillow("data datasets")
        splits = _loaded(self.id, self.config)
        train = splits.get("train")
        if train is None:
            raise DataError(f"datasets {self.id}: it has no split 'train' (but {', '.join(splits)}).")
        image, label = _columns(train, self.id)
        named = getattr(train.features[label], "num_classes", None)
        test = next((splits[name] for name in _TESTS if name in splits), None)
        if test is None:
            labels = self._labels(train[label])
            parts = [train.select(places.tolist()) for places in stratified(labels, self.test_share, self.seed, self.id)]
        else:
            parts = [train, test]
        grey = is_grey(parts[0][0][image])
        answers = [self._labels(part[label]) for part in parts]
        classes = checked_labels(answers[0], named, self.id)
        checked_labels(answers[1], classes, self.id)
        says = [json.dumps([self.id, self.config, self.size, part._fingerprint]) for part in parts]
        held = [Read(self._reader(part, image, grey), labels, told)
                for part, labels, told in zip(parts, answers, says, strict=True)]  # fmt: skip
        return Samples.of_images(Path(self.id).name, held[0], held[1], classes)

    def _reader(self, rows: Any, image: str, grey: bool) -> Callable[[int], Tensor]:
        wanted: list[torch.Size] = []

        def read(place: int) -> Tensor:
            try:
                pixels = as_tensor(rows[place][image], self.size, grey)
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(f"datasets {self.id}: picture {place} cannot be read ({error}).") from error
            wanted.append(pixels.shape)
            if pixels.shape != wanted[0]:
                sizes = " and ".join("×".join(map(str, shape[1:])) for shape in (wanted[0], pixels.shape))
                raise DataError(f"datasets {self.id}: pictures are {sizes} pixels large; say size=, to which they are cut.")
            del wanted[1:]
            return pixels

        return read

    def _labels(self, values: Any) -> Tensor:
        try:
            labels = torch.tensor(list(values))
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"datasets {self.id}: its labels are no whole numbers ({error}).") from error
        if labels.is_floating_point() or labels.dim() != 1:
            raise DataError(f"datasets {self.id}: its labels are no whole numbers, one a picture.")
        return labels


def _loaded(name: str, config: str) -> dict[str, Any]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        here = Path(name).expanduser()
        found = load_from_disk(str(here)) if (here / "dataset_dict.json").is_file() or (here / "state.json").is_file() \
            else load_dataset(name, config or None)  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"datasets {name}: cannot be loaded ({reason}). Check the id, the network, your token.") from error
    return dict(found) if isinstance(found, DatasetDict) else {"train": found}


def _columns(rows: Any, name: str) -> tuple[str, str]:
    """The columns of pictures and of labels."""
    from datasets import Image

    image = next((key for key, kind in rows.features.items() if isinstance(kind, Image)), None)
    label = next((key for key in _LABELS if key in rows.features), None)
    if image is None or label is None:
        raise DataError(
            f"datasets {name}: of its columns {', '.join(rows.features)} none "
            f"{'holds pictures' if image is None else 'is one of ' + ', '.join(_LABELS)}."
        )
    return image, label
