"""The records that a report is made from, and what is wrong with those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.journal import Journal
from .record import FILE, FORMAT
from .words import Words


@dataclass(frozen=True)
class Run:
    """A run by its ``name``: its record, or a ``problem``, a key of the sentences of reports with what belongs in it."""

    name: str
    record: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The verb that made it: of an older pruning run, whose record does not say, its sites do."""
        return str(self.record.get("kind") or ("prune" if "sites" in self.record else "record"))

    def told(self, words: Words) -> str:
        """What is wrong with it, in words."""
        assert self.problem is not None
        return words(self.problem, **self.about)


def read_run(place: Path) -> Run:
    """The record in an output's folder, or in a file. Nothing is raised: what is wrong is part of the report."""
    name = str(place)
    journal = Journal(place)
    if not place.exists():
        if journal.unfinished:
            return Run(name, problem="unfinished", about={"output": name, "parts": len(journal.entries())})
        return Run(name, problem="absent", about={"place": name})
    file = place / FILE if place.is_dir() else place
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Run(name, problem="unread", about={"file": str(file), "reason": " ".join(reason.split())[:200]})
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        return Run(name, problem="foreign", about={"file": str(file), "format": found})
    return Run(name, record)
