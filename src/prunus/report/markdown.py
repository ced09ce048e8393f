"""A document as Markdown, for a model card: pictures are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .document import MARK, Block, Code, Document, Folded, Paragraph, Table


def as_markdown(document: Document) -> str:
    """The page."""
    lines = [f"# {_plain(document.title)}", "", _plain(document.lead), ""]
    for section in document.sections:
        told = [line for block in section.blocks for line in _lines(block)]
        lines += [f"## {_plain(section.title)}", "", *told] if told else []
    return "\n".join([*lines, _plain(document.foot), "", f"<!-- {MARK} -->", ""])


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield from (f"> {_plain(block.text)}" if block.warning else _plain(block.text), "")
    elif isinstance(block, Table):
        yield _row(block.head)
        yield "|" + "|".join("---" if k == 0 or block.words else "---:" for k in range(len(block.head))) + "|"
        yield from map(_row, block.rows)
        yield ""
    elif isinstance(block, Code):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        yield from (f"{fence}{block.language}", block.text, fence, "")
    elif isinstance(block, Folded):
        yield from (f"### {_plain(block.title)}", "")
        for inner in block.blocks:
            yield from _lines(inner)


def _row(cells: object) -> str:
    assert isinstance(cells, (list, tuple))
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A text in which nothing is Markdown or HTML: one line, its signs escaped.

    >>> _plain("a <b>*c*</b>")
    'a &lt;b&gt;\\\\*c\\\\*&lt;/b&gt;'
    """
    one = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]#])", r"\\\1", one.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
