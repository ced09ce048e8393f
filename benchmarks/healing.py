"""How much of what pruning took healing gives back: SmolLM2-135M cut to 80% of its parameters, and pruned to 70%.

    python benchmarks/healing.py [--students cut sparse] [--tokens 150000] [--lr 3e-4] [--control-lr 1e-4]

The student learns from the dense model and from the text (``--loss kl --loss ce``) on Factbook tokens; the control is the
dense model tuned on the same windows for as long (``recover``: text alone, at a learning rate of its own). All are judged
on the held-out Factbook documents and on *Persuasion*, where nothing was trained on, as quality.py does. ``recovered`` is
(ln before − ln after) / (ln before − ln control) of perplexities. Appends one row a model to
``benchmarks/rows/healing.jsonl``; what is in ``--folder`` already is not made again. ``--summary`` only prints them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from quality import MODEL, TEXTS, judge
from rows import Rows

HERE = Path(__file__).parent
SEQLEN = 256
STUDENTS: dict[str, list[str]] = {
    "cut": ["shrink", "--neurons=1024"],
    "sparse": ["prune", "--sparsity=0.7", "--method=balanced"],
}
"""How the students are made, by name."""


def main() -> None:
    """Make, heal and judge what has no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--control-lr", type=float, default=1e-4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("healing"))
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = Rows(HERE / "rows" / "healing.jsonl")
    if not options.summary:
        options.folder.mkdir(exist_ok=True)
        shared = {"tokens": options.tokens, "seqlen": SEQLEN, "dtype": options.dtype, "windows": options.windows}
        control = ["recover", MODEL, f"--lr={options.control_lr}"]
        learnt = ["--teacher", MODEL, "--loss=kl", "--loss=ce", f"--lr={options.lr}"]
        for name in options.students:
            made = options.folder / name
            if all(rows.has(model=name, lr=lr, **shared) for lr in (0.0, options.lr)):
                continue
            run([STUDENTS[name][0], MODEL, *STUDENTS[name][1:], "--samples=64"], made)
            if not rows.has(model=name, lr=0.0, **shared):
                rows.add(model=name, lr=0.0, **shared, **judged(made, options.windows))
            heal(rows, name, options.lr, shared, ["distill", str(made), *learnt], options)
        heal(rows, "control", options.control_lr, shared, control, options)
    summarise(rows.all())


def heal(rows: Rows, name: str, lr: float, shared: dict[str, Any], words: list[str], options: argparse.Namespace) -> None:
    """Train one model and write its row."""
    if rows.has(model=name, lr=lr, **shared):
        return
    output = options.folder / f"{name}-{lr:g}-{options.tokens}"
    record = run([*words, f"--tokens={options.tokens}", f"--dtype={options.dtype}"], output)
    rows.add(model=name, lr=lr, **shared, seconds=record["seconds"], held_out=record["held_out"],
             zeros_held=record["zeros_held"], **judged(output, options.windows))  # fmt: skip


def run(words: list[str], output: Path) -> dict[str, Any]:
    """One command, unless its output is there; its record."""
    if not output.exists():
        flags = [f"--seqlen={SEQLEN}", "--eval-windows=0", "--resume"]
        subprocess.run([sys.executable, "-m", "prunus", *words, "-o", str(output), *flags], check=True)
    record: dict[str, Any] = json.loads((output / "prunus.json").read_text())
    return record


def judged(output: Path, windows: int) -> dict[str, Any]:
    """Beside the dense model, on both texts."""
    return {text: judge(output, text, SEQLEN, slice(windows)) for text in TEXTS}


def summarise(rows: list[dict[str, Any]]) -> None:
    """What healing gave back, against the best control of the same tokens."""
    for row in rows:
        words = [f"{row['model']:8} lr {row['lr']:<7g} {row['tokens']:,} tokens"]
        same = [one for one in rows if one["tokens"] == row["tokens"]]
        before = [one for one in same if one["model"] == row["model"] and not one["lr"]]
        controls = [one for one in same if one["model"] == "control"]
        for text in TEXTS:
            words.append(f"{text}: perplexity {row[text]['perplexity']:.2f}, KL {row[text]['kl']:.3f}")
            if before and controls and row["lr"]:
                best = min(one[text]["perplexity"] for one in controls)
                gap = math.log(before[0][text]["perplexity"] / best)
                words.append(f"recovered {math.log(before[0][text]['perplexity'] / row[text]['perplexity']) / gap:.0%}")
        print(", ".join(words))


if __name__ == "__main__":
    main()
