"""export: a model in a format that other programs read, loaded again and compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from ..checkpoint.new_output import new_output
from ..checkpoint.replace import check_free, check_replaceable
from ..core.errors import RecipeError
from ..core.progress import Progress, Silent
from ..core.registry import suggest
from ..exports.targets import TARGETS
from ..exports.written import Check, Request, Written
from ..measure.environment import environment
from ..models.locate import locate
from ..report.record import FILE, headed


@dataclass(frozen=True)
class Exported:
    """What was written where: in which ``layout``, bytes of the tensors before and after, how it compared, loaded again.

    ``layers`` counts those whose weights were packed or rounded.
    """

    model: str
    output: str
    to: str
    layout: str
    layers: int
    plain_bytes: int
    packed_bytes: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    seconds: float


def export(model: str | Path, output: str | Path, *, to: str = "compressed-tensors", dtype: str = "auto",
           overwrite: bool = False, trust_remote_code: bool = False,
           progress: Progress | None = None) -> Exported:  # fmt: skip
    """Write a model in a format that other programs read, and check it: what was written is loaded again and compared.

    ``to`` is one of :data:`prunus.exports.targets.TARGETS`: ``compressed-tensors`` (of a checkpoint on a grid), ``gguf``,
    ``onnx``, ``torch-export``; ``dtype`` is what weights are stored in (``auto``: as they are).

    Raises:
        RecipeError: if there is no such format or dtype, or what the format needs is not installed.
        UnsupportedModelError: if the format has no place for the model.
        CheckpointError: if the model, its tokenizer or its levels are missing, damaged, or do not belong together.
        ResourceError: if the model and what is loaded to compare do not fit in memory.
        OutputError: if ``output`` exists and ``overwrite`` was not asked for, or it is no checkpoint that could be
            replaced, or cannot be written.
        ProofError: if what was written is not the model.
    """
    start, reporter, target = perf_counter(), progress or Silent(), Path(output).expanduser()
    if to not in TARGETS:
        raise RecipeError([f"there is no format '{to}' to export to{suggest(to, TARGETS)}"])
    check_free(target, overwrite)
    folder = locate(model)
    check_replaceable(target, folder, model)
    try:
        with new_output(target, folder, model, "prunus-export", overwrite) as place:
            written = TARGETS[to](Request(folder, dtype, trust_remote_code), place, reporter)
            _record(str(model), place, folder, to, written)
    finally:
        reporter.close()
    return Exported(str(model), str(target), to, **vars(written), seconds=round(perf_counter() - start, 3))


def _record(model: str, place: Path, folder: Path, to: str, written: Written) -> None:
    """``prunus.json``: what was written and how it compared, with the model's own record under ``source``."""
    source = json.loads((folder / FILE).read_text(encoding="utf-8")) if (folder / FILE).is_file() else None
    record = {
        **headed("export"), "model": model, "to": to, **asdict(written), "environment": environment(), "source": source,
    }  # fmt: skip
    (place / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
