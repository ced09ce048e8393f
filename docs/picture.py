"""Draws ``docs/demo.svg`` from what ``make demo`` left in ``.demo``: the run's own record and a comparison.

python docs/picture.py .demo/SmolLM2-135M-50 docs/demo.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

import prunus
from prunus.report.compared import compare_table
from prunus.report.record import read_record
from prunus.report.tables import prune_table


def main() -> None:
    """Render the two tables of the demo as one picture."""
    folder, picture = Path(sys.argv[1]), Path(sys.argv[2])
    record = read_record(folder)
    found = prunus.compare(record["model"], folder, windows=8)
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(prune_table(record))
    console.print()
    console.print(compare_table(found))
    drawn = console.export_svg(title="make demo")
    picture.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S), encoding="utf-8")  # no font from the network


if __name__ == "__main__":
    main()
