"""The site is built without a warning, leads nowhere that is not there, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page loads and links to, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attributes}
        self.places |= {told[name] for name in ("id", "name") if name in told}
        if tag in ("script", "img", "iframe", "source") and "src" in told:
            self.loaded.append(told["src"])
        if tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(told["href"])
        if tag == "a" and "href" in told:
            self.links.append(told["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    return place


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    first = {Path("index.html"), Path("zh-Hant/index.html")}
    assert {path.relative_to(site) for path in pages} == written | first
    for path, page in pages.items():
        outside = [one for one in page.loaded if urlparse(one).scheme not in ("", "data")]
        assert not outside, path
        for one in page.loaded:
            if not one.startswith("data:"):
                assert (path.parent / urlparse(one).path).resolve().is_file(), (path, one)


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for link in page.links:
            address, place = urldefrag(link)
            if urlparse(link).scheme:
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.exists(), (path, link)
            if place and target in pages:
                assert unquote(place) in pages[target].places, (path, link)


def test_the_reference_is_made_of_docstrings(site: Path) -> None:
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for words in ("RecipeError", "arXiv", "Sparsifier"):
        assert words in text
    assert not re.search(r":(class|func|mod|meth|attr):", text)
