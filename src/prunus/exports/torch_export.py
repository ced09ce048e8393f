"""torch.export: the traced program as one ``.pt2`` file, that torch runs alone: no TorchScript, no Transformers."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.export import Dim

from ..core.progress import Progress
from .opened import Opened, opened
from .traced import TOLERANCE, WholePass, copy_beside, only_float32, traced, widened
from .written import Check, Request, Written, compared

FILE = "model.pt2"
READER = "torch.export.load"


def write(request: Request, place: Path, progress: Progress) -> Written:
    """Write ``model.pt2``: ``input_ids``, ``attention_mask [batch tokens]`` → logits, batch and length open; and check it.

    Raises:
        RecipeError: if a dtype other than float32 is asked for.
        UnsupportedModelError: if torch.export cannot follow the model.
        ProofError: if the loaded program computes other logits.
    """
    only_float32(request, "torch-export")
    source = opened(request, copies=1)
    progress.start("Tracing, writing, checking", 3)
    source.logits  # noqa: B018 - before the model's attention is changed for tracing
    batch, length = Dim("batch"), Dim("length")
    open_extents = ({0: batch, 1: length}, {0: batch, 1: length})
    program = traced(source, WholePass(source.model), (source.ids, torch.ones_like(source.ids)), open_extents)
    progress.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, place / FILE)
    copy_beside(source, place)
    progress.step()
    check = _checked(place / FILE, source)
    progress.step()
    size = (place / FILE).stat().st_size
    return Written("torch.export program, float32", 0, source.plain_bytes, size, (check,), widened(source))


@torch.inference_mode()
def _checked(path: Path, source: Opened) -> Check:
    """The loaded program on all windows, and on part of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path).module()
    ids, part = source.ids, source.ids[:1, :5]
    compared(READER, source.logits[:1, :5], program(part, torch.ones_like(part)), TOLERANCE)
    return compared(READER, source.logits, program(ids, torch.ones_like(ids)), TOLERANCE)
