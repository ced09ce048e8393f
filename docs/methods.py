"""Writes docs/methods.md from the methods' own docstrings.

python docs/methods.py
"""

from __future__ import annotations

from pathlib import Path

from prunus.report.methods import page
from prunus.verbs.methods import methods

if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(page(methods()), encoding="utf-8")
