"""A report as a document: sections of paragraphs, tables, pictures and quotations, whatever it is written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import CheckpointError

MARK = "prunus report"
"""Stands in a written report, unseen, so that one is known from other pages."""


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; a ``warning`` says what is missing or wrong."""

    text: str
    warning: bool = False
    kind: str = field(default="paragraph", init=False)


@dataclass(frozen=True)
class Table:
    """Rows of plain text under a head; all columns but the first hold figures, unless they are ``words``."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False
    kind: str = field(default="table", init=False)

    def turned(self, corner: str) -> Table:
        """The same with rows as columns.

        >>> Table(["of", "a", "b"], [["size", "1", "2"], ["speed", "3", "4"]]).turned("model").rows
        [['a', '1', '3'], ['b', '2', '4']]
        """
        columns = [list(column) for column in zip(self.head, *self.rows, strict=True)]
        return Table([corner, *columns[0][1:]], columns[1:], self.words)


@dataclass(frozen=True)
class Picture:
    """A picture in SVG, and what it shows in words."""

    svg: str
    shows: str
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Code:
    """Something to be copied: a command, a recipe."""

    text: str
    language: str
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when asked for."""

    title: str
    blocks: Sequence[Paragraph | Table | Picture | Code]
    kind: str = field(default="folded", init=False)


Block = Paragraph | Table | Picture | Code | Folded


@dataclass(frozen=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """All of a report."""

    title: str
    language: str
    lead: str
    sections: Sequence[Section]
    foot: str


def check_report(file: Path) -> None:
    """Whether a file is a report as it was written.

    Raises:
        CheckpointError: if it is something else, or cannot be read.
    """
    try:
        found = MARK in file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}.") from error
    if not found:
        raise CheckpointError(f"{file}: is no report.")
