"""What of a teacher a student descends from: read from the record that ``prunus shrink`` left, or taken as it must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..stream.sources import CheckpointSource

_RECORD = "prunus.json"
_ANCESTRY = ("count", "blocks", "sizes", "units")


def layer_pairs(student: CheckpointSource, teacher: CheckpointSource) -> list[tuple[int, int]]:
    """Places in the hidden states behind blocks that belong together.

    Blocks that were cut away are known from the record; otherwise a shallower student's are spaced evenly. What is behind
    a model's last block is told behind its final norm, so that it is compared only with its like.
    """
    few, many = len(student.blocks), len(teacher.blocks)
    plan = _descent(student, teacher)
    if plan is not None and plan.get("count") == many and len(plan.get("blocks", ())) == few:
        pairs = [(k + 1, int(block) + 1) for k, block in enumerate(plan["blocks"])]
        return pairs if pairs[-1] == (few, many) else pairs[:-1] or pairs
    return [(k + 1, round((k + 1) * many / few)) for k in range(few)]


def same_kind(student: CheckpointSource, teacher: CheckpointSource) -> bool:
    """Whether one may descend from the other: their configs are of one kind of model."""
    return bool(student.config.get_text_config().model_type == teacher.config.get_text_config().model_type)


def kept_channels(student: CheckpointSource, teacher: CheckpointSource) -> Tensor | None:
    """The teacher's channels that the student still has; None where it has all, or they are not known."""
    plan = _descent(student, teacher)
    width = (plan or {}).get("units", {}).get("width")
    sizes = (plan or {}).get("sizes", {}).get("width", [0, 0])
    known = width is not None and sizes[0] == teacher.config.get_text_config().hidden_size
    return torch.tensor(width) if known and len(width) == student.config.get_text_config().hidden_size else None


def _descent(student: CheckpointSource, teacher: CheckpointSource) -> dict[str, Any] | None:
    """The student's ancestry, where the teacher may be the parent that it tells of."""
    return ancestry_of(student.checkpoint.folder) if same_kind(student, teacher) else None


def ancestry_of(folder: Path) -> dict[str, Any] | None:
    """What of its parent a checkpoint is, if it was cut out of one: ``count`` blocks that there were, the ``blocks`` that
    stay, ``sizes`` and ``units``. What is made of a cut checkpoint carries it on."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    plan = record.get("plan") if record.get("kind") == "shrink" else record.get("ancestry")
    return {key: plan[key] for key in _ANCESTRY if key in plan} if isinstance(plan, dict) else None
