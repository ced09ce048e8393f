"""50% and 4 bits in one solve, against pruning and then quantising, and against 3 bits alone at the same packed bytes.

    python benchmarks/quantised.py [--seeds 0 1 2] [--samples 64] [--seqlen 256] [--windows 64]

SmolLM2-135M, groups of 64, symmetric, calibrated and judged as in quality.py. 50% + 4 bits take 1 + 2 + 0.25 bits a weight
(mask, codes, scales), 3 bits alone 3 + 0.25. All steps see the same text, none of it the model's own: a pruned one would
write another. What is quantised afterwards keeps its mask and is rounded by GPTQ, as anyone would. Appends one row a
run to ``benchmarks/rows/quantised.jsonl``; what has a row already is not run again. ``--summary`` only prints what the rows
say.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

from quality import MODEL, TEXTS, judge, pruned
from rows import Rows, resolved

FOUR, THREE = "int:bits=4,group=64", "int:bits=3,group=64"
AS_IT_IS: dict[str, Any] = {
    "criterion": "magnitude",
    "allocation": "global",
    "target": "sparse",
    "solver": "lstsq",
    "stage": "none",
    "temper": 1,
}
"""Of a model that is half zeros, drops those and nothing else."""
CHOICES: dict[str, list[dict[str, Any]]] = {
    f"{method}: {name}": steps
    for method in ("sparsegpt", "balanced", "best")
    for name, steps in {
        "50%": [{"method": method, "sparsity": 0.5}],
        "50% + 4 bits, jointly": [{"method": method, "sparsity": 0.5, "grid": FOUR}],
        "50%, then 4 bits": [
            {"method": method, "sparsity": 0.5},
            {"method": method, "sparsity": 0.5, "grid": FOUR, **AS_IT_IS},
        ],
        "4 bits": [{"method": method, "sparsity": 0.0, "grid": FOUR}],
        "3 bits": [{"method": method, "sparsity": 0.0, "grid": THREE}],
    }.items()
}
"""What is measured, by name: the settings of one run of ``prunus prune`` after the other."""


def main() -> None:
    """Measure what has no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", nargs="+", default=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = Rows(Path(__file__).parent / "rows" / "quantised.jsonl")
    for seed in options.seeds if not options.summary else []:
        for name in options.names:
            asked_for = {"seed": seed, "samples": options.samples, "seqlen": options.seqlen}
            steps = [{**step, **asked_for, "own-text": 0} for step in CHOICES[name]]
            row = {"name": name, **asked_for, "windows": options.windows, "resolved": [resolved(step) for step in steps]}
            if not rows.has(**row):
                rows.add(**row, steps=CHOICES[name], **measure(steps, options.windows))
    summarise(rows.all())


def measure(steps: list[dict[str, Any]], windows: int) -> dict[str, Any]:
    """Run the steps, each on what the last one left, and judge the end."""
    with tempfile.TemporaryDirectory() as folder:
        model, start = MODEL, perf_counter()
        for number, step in enumerate(steps):
            output = Path(folder) / str(number)
            record = pruned(output, {**step, "eval-windows": 0}, model)
            model = str(output)
        wall = perf_counter() - start
        judged = {text: judge(output, text, steps[0]["seqlen"], slice(windows)) for text in TEXTS}
    return {"wall_seconds": round(wall, 2), "zeros": record["sparsity"], **record["packed"], **judged}


def summarise(rows: list[dict[str, Any]]) -> None:
    """Means over seeds."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["name"]].append(row)
    for name, found in groups.items():
        words = [f"{name:34} seeds {len(found)}, {found[0]['bits_per_weight']:.2f} bits, {found[0]['zeros']:.0%} zeros"]
        for text in TEXTS:
            gap, kl = (sum(row[text][key] for row in found) / len(found) for key in ("gap", "kl"))
            words.append(f"{text}: gap {gap:.3f}, KL {kl:.3f}")
        print(", ".join(words))


if __name__ == "__main__":
    main()
