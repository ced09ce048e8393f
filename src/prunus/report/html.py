"""A document as one HTML page that loads nothing from the network."""

from __future__ import annotations

import re
from importlib.resources import files

from .document import MARK, Document


def as_html(document: Document) -> str:
    """The page; every text is escaped but the pictures, which are ours."""
    from jinja2 import Environment, StrictUndefined

    places = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    places.filters["inline"] = _inline
    template = places.from_string((files("prunus.report") / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(page=document, mark=MARK)


def _inline(svg: str, number: str) -> str:
    """A picture as a part of a page: no prologue, a size that fits, names that no other picture on the page has."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{number}-", body)
