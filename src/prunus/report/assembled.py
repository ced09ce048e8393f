"""A report from the records of several runs: what of them can be shown, and in words what cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ..recipe import Recipe
from .command import command_of
from .document import Block, Code, Document, Folded, Paragraph, Section, Table
from .runs import Run
from .sections import compared, exported, fronts, healed, lottery, other, packed, pruned, shrunk, timed, trained
from .words import Words

_KINDS = {
    "compare": compared, "prune": pruned, "shrink": shrunk, "distill": healed, "recover": healed, "pack": packed,
    "export": exported, "bench": timed, "train": trained, "lottery": lottery,
}  # fmt: skip
_LACKING = (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, RuntimeError)
"""What a record that lacks something, or has something else in its place, makes of code that reads it (RuntimeError: of a
generator in which there is no next)."""


def assembled(runs: Sequence[Run], words: Words) -> Document:
    """The document: comparisons first, then what several say together, then every other run, and how to repeat them."""
    broken = [Paragraph(run.told(words), warning=True) for run in runs if run.problem]
    read = [run for run in runs if not run.problem]
    comparisons = [run for run in read if run.kind == "compare"]
    sections = [_section(run, words) for run in comparisons]
    judged, made = [run.record for run in comparisons], [run.record for run in read if run.kind == "prune"]
    together = _kept(lambda: fronts.blocks(judged, made, words), words("fronts"), words, "")
    if together:
        sections.append(Section(words("fronts"), together))
    sections += [_section(run, words) for run in read if run.kind != "compare"]
    if broken:
        sections.insert(0, Section(words("notes"), broken))
    if read:
        sections.append(Section(words("reproduce"), list(_reproduced(read, words))))
    foot = words("foot", version=version("prunus"))
    return Document(words("title"), words.language, words("lead"), sections, foot)


def _section(run: Run, words: Words) -> Section:
    shown = _KINDS.get(run.kind, other)
    try:
        title = shown.title(run.record, words)
    except _LACKING:
        title = run.name
    return Section(title, _kept(lambda: shown.blocks(run.record, words), title, words, run.name))


def _kept(blocks: Callable[[], Iterable[Block]], section: str, words: Words, name: str) -> list[Block]:
    """The blocks up to where a record lacks something, and a word of that."""
    found: list[Block] = []
    try:
        for block in blocks():
            found.append(block)  # noqa: PERF402 - what came before an error stays
    except KeyError as error:
        found.append(Paragraph(words("cut", run=name, section=section, what=error), warning=True))
    except _LACKING as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        found.append(Paragraph(words("odd", run=name, section=section, what=what), warning=True))
    return found


def _reproduced(runs: Sequence[Run], words: Words) -> Iterator[Block]:
    for run in runs:
        record = run.record
        if run.kind == "prune":
            try:
                yield Code(command_of("prune", record, Recipe().to_json(), ("method", "sparsity")), "sh")
                continue
            except _LACKING:
                pass
        settings = json.dumps(record.get("recipe", {}), indent=1, ensure_ascii=False)
        yield Folded(words("settings", run=run.name), [Code(settings, "json")])
    machines: list[Mapping[str, Any]] = []
    for run in runs:
        machine = run.record.get("environment")
        if isinstance(machine, dict) and machine not in machines:
            machines.append(machine)
    for machine in machines:
        rows = [[str(key), str(value)] for key, value in machine.items()]
        yield Folded(words("machine"), [Table([words("what"), words("value")], rows, words=True)])
