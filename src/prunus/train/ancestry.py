"""What of a teacher a student descends from: read from the record that ``prunus shrink`` left, or taken as it must be."""

from __future__ import annotations

import torch
from torch import Tensor

from ..report.record import ancestry_of
from ..stream.sources import CheckpointSource


def layer_pairs(student: CheckpointSource, teacher: CheckpointSource) -> list[tuple[int, int]]:
    """Places in the hidden states behind blocks that belong together.

    Blocks that were cut away are known from the record; otherwise a shallower student's are spaced evenly. What is behind
    a model's last block is told behind its final norm, so that it is compared only with its like.
    """
    few, many = len(student.blocks), len(teacher.blocks)
    plan = ancestry_of(student.checkpoint.folder)
    if plan is not None and plan.get("count") == many and len(plan.get("blocks", ())) == few:
        pairs = [(k + 1, int(block) + 1) for k, block in enumerate(plan["blocks"])]
        return pairs if pairs[-1] == (few, many) else pairs[:-1] or pairs
    return [(k + 1, round((k + 1) * many / few)) for k in range(few)]


def kept_channels(student: CheckpointSource, teacher: CheckpointSource) -> Tensor | None:
    """The teacher's channels that the student still has; None where it has all, or they are not known."""
    plan = ancestry_of(student.checkpoint.folder)
    width = (plan or {}).get("units", {}).get("width")
    sizes = (plan or {}).get("sizes", {}).get("width", [0, 0])
    known = width is not None and sizes[0] == teacher.config.get_text_config().hidden_size
    return torch.tensor(width) if known and len(width) == student.config.get_text_config().hidden_size else None
