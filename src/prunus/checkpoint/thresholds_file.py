"""Thresholds of activations as a file: plain JSON that says what it is, for which model, and how it was found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, OutputError
from ..core.thresholds import InputThreshold, Thresholds
from .disk import write_atomically

WHAT, FORMAT = "prunus activation thresholds", 1
_ADVICE = "`prunus threshold` writes one."


def write_thresholds(path: Path, thresholds: Thresholds, about: Mapping[str, Any], shares: Mapping[str, float]) -> None:
    """Write thresholds, with ``about`` (the protocol) beside them; ``shares`` are inputs' sparsities on held-out text, by
    name, where they were measured.

    Raises:
        OutputError: if the file cannot be written.
    """
    content = {
        "what": WHAT,
        "format": FORMAT,
        "fingerprint": thresholds.fingerprint,
        "dense_tokens": thresholds.dense_tokens,
        **about,
        "inputs": [
            {
                "layers": {layer: list(shape) for layer, shape in one.layers.items()},
                "level": one.level,
                "threshold": one.threshold,
                "bytes": one.nbytes,
                "held_out_sparsity": shares.get(one.name),
            }
            for one in thresholds.inputs
        ],
    }
    try:
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}). Choose another -o.") from error


def read_thresholds(path: Path) -> Thresholds:
    """The thresholds in a file of :func:`write_thresholds`.

    Raises:
        CheckpointError: if it cannot be read, or is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}).") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: no file of activation thresholds ({error}). {_ADVICE}") from error
    if not isinstance(content, dict) or content.get("what") != WHAT:
        raise CheckpointError(f"{path}: no file of activation thresholds. {_ADVICE}")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: activation thresholds of format {content.get('format')}, this prunus reads {FORMAT}. {_ADVICE}"
        )
    try:
        inputs = tuple(_input(one) for one in content["inputs"])
        found = Thresholds(str(content["fingerprint"]), int(content["dense_tokens"]), inputs)
        named = [layer for one in inputs for layer in one.layers]
        if len(set(named)) < len(named):
            raise ValueError("a layer has two inputs")
        if not inputs or found.dense_tokens < 1:
            raise ValueError("no inputs" if not inputs else f"dense_tokens {found.dense_tokens} is below 1")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: damaged activation thresholds ({reason}). {_ADVICE}") from error
    return found


def _input(one: Mapping[str, Any]) -> InputThreshold:
    layers = {str(layer): (int(shape[0]), int(shape[1])) for layer, shape in one["layers"].items()}
    found = InputThreshold(layers, float(one["level"]), float(one["threshold"]), int(one["bytes"]))
    sound = 0 <= found.level < 1 and math.isfinite(found.threshold) and found.threshold >= 0 and found.nbytes > 0
    if not layers or not sound:
        named = ", ".join(layers) or "no layer"
        told = f"level {found.level}, threshold {found.threshold}, {found.nbytes} bytes"
        raise ValueError(f"an input of {named} with {told}")
    return found
