"""prunus.json: everything that was asked, done and measured, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from ..core.plan import Plan
from ..measure.environment import environment
from ..measure.memory import peak_memory_bytes
from ..recipe import Recipe

FILE = "prunus.json"
FORMAT = 1


def headed(kind: str) -> dict[str, Any]:
    """How every record begins: its format, the verb that made it, and when."""
    return {"format": FORMAT, "kind": kind, "created": datetime.now(UTC).isoformat(timespec="seconds")}


def build_record(plan: Plan, recipe: Recipe, results: list[dict[str, Any]], proof: Mapping[str, Any],
                 evaluation: Mapping[str, Any] | None) -> dict[str, Any]:  # fmt: skip
    """The record of a finished run; ``output`` and ``seconds`` are for its verb to fill in."""
    return {
        **headed("prune"),
        "model": plan.model,
        "output": None,
        "method": plan.method_name,
        "sparsity": proof["sparsity"],
        "sparsity_total": proof["sparsity_total"],
        "packed": _packed(plan, results),
        "seconds": None,
        "seconds_to_written": None,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_memory_bytes_to_written": None,
        "evaluation": dict(evaluation) if evaluation else None,
        "proof": dict(proof),
        "sites": results,
        "recipe": recipe.to_json(),
        "plan_digest": plan.digest(),
        "plan": plan.to_json(),
        "environment": environment(),
    }


def _packed(plan: Plan, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Bytes of the pruned layers as they were and as they would be packed: survivors, positions, scales."""
    before = sum(step.site.numel * step.site.dtype.itemsize for step in plan.steps)
    after = sum(result["packed_bytes"] for result in results)
    weights = sum(step.site.numel for step in plan.steps)
    return {"dense_bytes": before, "packed_bytes": after, "bits_per_weight": 8 * after / weights}


def read_record(place: Path, kind: str | None = None) -> dict[str, Any]:
    """The record in an output's folder, or in a file; of a ``kind``, where one is asked for.

    Raises:
        CheckpointError: if there is none, or it is not prunus's, or of another kind.
    """
    file = place / FILE if place.is_dir() else place
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: no readable record of a prunus run ({error}).") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a record of format {FORMAT}.")
    if kind is not None and record.get("kind") != kind:
        raise CheckpointError(f"{file}: a record of {record.get('kind', 'prune')}, not of {kind}.")
    return record
