"""Reading text: a file, a folder, JSONL, Parquet, a dataset id, or what ships with prunus."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from importlib.resources import files
from itertools import islice
from pathlib import Path

from ..core.errors import CalibrationError

EMBEDDED = {"factbook": "factbook-calibration.txt", "factbook-heldout": "factbook-heldout.txt"}
"""World Factbook prose (public domain): for calibration, and other documents of it for evaluation."""

_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".text"}
_FIELDS = ("text", "content", "document", "prompt")
_MOST_ROWS = 20_000
_PIECES = 256
JOIN = "\n\n"


def read_text(source: str | Path) -> str:
    """All text of a source as one string, its documents joined by a blank line.

    ``source`` is a text file, a folder of such, a ``.jsonl``, ``.json`` or ``.parquet`` file with a text column, a
    dataset id (``NAME``, ``NAME:CONFIG`` or ``NAME:CONFIG:SPLIT``, of which "train" is the split if none is named; at most
    20,000 rows), or the name of an embedded text (``factbook``, ``factbook-heldout``).

    Raises:
        CalibrationError: if it cannot be found or read, holds no text, or is binary.
    """
    name = str(source)
    if name in EMBEDDED:
        return (files("prunus.data") / EMBEDDED[name]).read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix in _TEXT_SUFFIXES | {".jsonl", ".json", ".parquet"})
        if not inside:
            raise CalibrationError(
                f"{path}: no .txt, .md, .jsonl, .json or .parquet file is in this folder. Give one that has some."
            )
        text = JOIN.join(_read_file(p) for p in inside)
    elif path.is_file():
        text = _read_file(path)
    elif path.suffix in _TEXT_SUFFIXES | {".jsonl", ".parquet"} or name.startswith((".", "/", "~")):
        raise CalibrationError(f"{path}: no such file or folder. Embedded texts: {', '.join(EMBEDDED)}.")
    else:
        text = _read_dataset(name)
    if not text.strip():
        raise CalibrationError(f"{source}: it holds no text. Give another --calibration or --eval-text.")
    return text


def thin(text: str, most: int, seed: int) -> str:
    """Pieces of a text at random places, ``most`` characters together, none twice, where it is longer than is needed.

    >>> thin("short", 100, seed=0)
    'short'
    """
    if len(text) <= most:
        return text
    size = most // _PIECES
    chance = random.Random(seed)
    pieces = sorted(chance.sample(range(len(text) // size), _PIECES))
    return JOIN.join(text[piece * size : (piece + 1) * size] for piece in pieces)


def _read_file(path: Path) -> str:
    try:
        if path.suffix in {".jsonl", ".json", ".parquet"}:
            return _read_table(path)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: no UTF-8 text (byte {error.start}). Give plain text, JSONL or Parquet.") from error
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror}).") from error


def _read_table(path: Path) -> str:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = "parquet" if path.suffix == ".parquet" else "json"
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs with a traceback is told below in a line
    try:
        rows = load_dataset(kind, data_files=str(path), split="train", streaming=True)
        return JOIN.join(_texts(rows, str(path)))
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise CalibrationError(f"{path}: cannot be read as {kind} ({str(error).strip().splitlines()[0]}).") from error


def _read_dataset(name: str) -> str:
    from datasets import load_dataset

    repo, config, split, *more = [*name.split(":"), "", ""]
    if any(more):
        raise CalibrationError(f"{name}: a dataset is NAME, NAME:CONFIG or NAME:CONFIG:SPLIT.")
    try:
        rows = load_dataset(repo, config or None, split=split or "train", streaming=True)
        return JOIN.join(_texts(islice(rows, _MOST_ROWS), name))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CalibrationError(
            f"{name}: no file or folder of that name, and no dataset can be loaded under it ({reason}). "
            f"Embedded texts: {', '.join(EMBEDDED)}."
        ) from error


def _texts(rows: Iterable[object], source: str) -> Iterable[str]:
    field: str | None = None
    for row in rows:
        if not isinstance(row, dict):
            raise CalibrationError(f"{source}: rows are {type(row).__name__}, not records with a text column.")
        if field is None:
            field = next((name for name in _FIELDS if isinstance(row.get(name), str)), None)
            if field is None:
                raise CalibrationError(
                    f"{source}: none of the columns {', '.join(map(str, row))} is text under a name prunus knows "
                    f"({', '.join(_FIELDS)})."
                )
        yield str(row[field] or "")
