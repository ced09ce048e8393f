"""Benchmark results as data: one JSON line a measurement, with command, commit and machine."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Rows:
    """Appends rows to a ``.jsonl`` file and prints them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path = path

    def all(self) -> list[dict[str, Any]]:
        """Every row so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []

    def has(self, **wanted: object) -> bool:
        """Whether some row has these values; a row that has none under a name may have any."""
        wanted = json.loads(json.dumps(wanted))
        return any(all(row.get(key, value) == value for key, value in wanted.items()) for row in self.all())

    def add(self, **values: object) -> None:
        """Append one measurement."""
        from prunus.measure.environment import environment

        script = Path(sys.argv[0]).name
        row = {
            **values,
            "command": shlex.join(["python", f"benchmarks/{script}", *map(without_place, sys.argv[1:])]),
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": environment(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = {key: value for key, value in row.items() if key != "machine"}
        print(json.dumps(shown), flush=True)


def resolved(settings: dict[str, Any]) -> dict[str, Any]:
    """What settings of ``prunus.prune`` come to, presets' choices included: one choice on every axis."""
    from prunus.recipe import Recipe

    recipe = Recipe.of(settings)
    return {**recipe.build_method().to_json(), "own_text": recipe.own_share}


def without_place(word: str) -> str:
    """A word of the command line; of a path on this machine, behind ``KIND:`` too, only the name."""
    kind, colon, rest = word.rpartition(":")
    return f"{kind}{colon}PATH/{Path(rest).name}" if Path(rest).is_absolute() else word


def commit() -> str:
    """The commit that was measured, marked if the source differs from it."""
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "../src"], cwd=here, capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
