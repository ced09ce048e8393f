"""The table of docs/labs/language-models.md, and the continuations of the first prompt, from ``rows/llm_lab.jsonl``.

python benchmarks/llm_lab_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

HEAD = """\
| | perplexity | change | KL | same likeliest token | tokens/s |
|---|--:|--:|--:|--:|--:|"""
SHOWN = 0.5
"""Whose continuations are printed."""


def main() -> None:
    """Print both as Markdown."""
    lines = (Path(__file__).parent / "rows" / "llm_lab.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    print(HEAD)
    for row in rows:
        name = f"{row['method']} {row['sparsity']:.0%}" if row["sparsity"] else row["method"]
        low, high = row["interval"]
        median, least, most = row["tokens_per_second"]
        print(
            f"| {name} | {row['perplexity']:,.1f} ({low:,.1f} … {high:,.1f}) | {row['change']:+,.0%} | {row['kl']:.2f} | "
            f"{row['agreement']:.0%} | {median:.1f} ({least:.1f} … {most:.1f}) |"
        )
    print()
    for row in rows:
        if row["sparsity"] in (0, SHOWN):
            print(f"- {row['method']}: {' '.join(row['continuations'][0].split())}")


if __name__ == "__main__":
    main()
