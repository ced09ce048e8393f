"""What of a teacher a student descends from: read from the record that ``prunus shrink`` left, or taken as it must be."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ..stream.sources import CheckpointSource

_RECORD = "prunus.json"


def layer_pairs(student: CheckpointSource, teacher: CheckpointSource) -> list[tuple[int, int]]:
    """Places in the hidden states behind blocks that belong together, the last included.

    Blocks that were cut away are known from the record; otherwise a shallower student's are spaced evenly.
    """
    few, many = len(student.blocks), len(teacher.blocks)
    plan = _plan(student)
    if plan is not None and plan.get("count") == many and len(plan.get("blocks", ())) == few:
        return [(k + 1, int(block) + 1) for k, block in enumerate(plan["blocks"])]
    return [(k + 1, round((k + 1) * many / few)) for k in range(few)]


def kept_channels(student: CheckpointSource, teacher: CheckpointSource) -> Tensor | None:
    """The teacher's channels that the student still has; None where it has all, or they are not known."""
    plan = _plan(student)
    width = (plan or {}).get("units", {}).get("width")
    sizes = (plan or {}).get("sizes", {}).get("width", [0, 0])
    known = width is not None and sizes[0] == teacher.config.get_text_config().hidden_size
    return torch.tensor(width) if known and len(width) == student.config.get_text_config().hidden_size else None


def _plan(student: CheckpointSource) -> dict[str, Any] | None:
    path = student.checkpoint.folder / _RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record.get("plan") if isinstance(record, dict) and record.get("kind") == "shrink" else None
