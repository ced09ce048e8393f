"""What the site needs beyond its pages: READMEs as its first ones, links out of docs/, and roles in docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FIRST = {"index.md": "README.md", "zh-Hant/index.md": "README.zh-Hant.md"}
"""Pages that are written at the root of the repository."""


def on_files(files: Files, config: Any) -> Files:
    """The READMEs join the pages."""
    for page, source in FIRST.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        up = "../" * page.count("/")
        text = text.replace("](README.md)", "](docs/index.md)").replace("](README.zh-Hant.md)", "](docs/zh-Hant/index.md)")
        text = re.sub(r"\]\((?!\w+:|#)([^)]*)\)", rf"]({up}../\1)", text).replace(f"]({up}../docs/", f"]({up}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files outside of docs/ lead to the repository, where it is known; else they are what they say alone."""
    up = "../" * (page.file.src_uri.count("/") + 1)

    def outside(match: re.Match[str]) -> str:
        text, place = match.groups()
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place})" if config.repo_url else text

    return re.sub(rf"(?<!!)\[([^\]]*)\]\({re.escape(up)}(?!\.)([^)]*)\)", outside, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Roles of docstrings (``:class:``) are the names in them."""
    return re.sub(r":(?:class|func|mod|meth|attr):(?:<code>|`)~?(?:[\w.]*\.)?(\w+)(?:</code>|`)", r"<code>\1</code>", html)
