"""How well units are chosen and repaired: perplexity and KL on SmolLM2-135M, cut to the same shapes by every method.

    python benchmarks/structured.py [--methods obs weight …] [--shapes neurons-20 …] [--seeds 0]

Calibrated on the Factbook text, judged on its held-out documents and on *Persuasion*, as quality.py does; without healing.
``repaired`` methods fit what reads the units by least squares, the others keep it, as their papers do. (FLAP's bias
compensation has no place in this model, whose layers have no biases.) Appends one row a run to
``benchmarks/rows/structured.jsonl``; what has a row of the same settings is not run again. ``--summary`` only prints them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from quality import MODEL, TEXTS, judge
from rows import Rows

HERE = Path(__file__).parent
SHAPES: dict[str, dict[str, Any]] = {
    "neurons-20": {"neurons": 1024},
    "neurons-30": {"neurons": 768},
    "mixed-20": {"neurons": 1152, "heads": 6},
    "mixed-30": {"neurons": 896, "heads": 6},
    "width-20": {"width": 468},
    "depth-20": {"layers": -7},
    "params-0.8x": {"params": "0.8x"},
    "params-0.7x": {"params": "0.7x"},
}
"""What stays, by name; the number behind a dash is the share of all parameters that goes, about. Sizes of targets are
searched."""
REPAIRED = {"solver": "lstsq"}
KEPT = {"solver": "keep"}
METHODS: dict[str, dict[str, Any]] = {
    "obs, repaired": {"importance": "obs", **REPAIRED},
    "obs, repaired to dense": {"importance": "obs", **REPAIRED, "target": "dense"},
    "obs": {"importance": "obs", **KEPT},
    "weight": {"importance": "weight", **KEPT},
    "taylor": {"importance": "taylor", **KEPT},
    "fluctuation": {"importance": "fluctuation", **KEPT},
    "activation": {"importance": "activation", **KEPT},
    "random": {"importance": "random", **KEPT},
    "weight, repaired": {"importance": "weight", **REPAIRED},
    "taylor, repaired": {"importance": "taylor", **REPAIRED},
    "fluctuation, repaired": {"importance": "fluctuation", **REPAIRED},
    "activation, repaired": {"importance": "activation", **REPAIRED},
    "random, repaired": {"importance": "random", **REPAIRED},
}


def main() -> None:
    """Measure what has no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--shapes", nargs="+", default=["neurons-20", "neurons-30", "mixed-20", "mixed-30"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = Rows(HERE / "rows" / "structured.jsonl")
    for seed in options.seeds if not options.summary else []:
        for shape in options.shapes:
            for name in options.methods:
                shared = {"seed": seed, "samples": options.samples, "seqlen": options.seqlen}
                key = {"name": name, "shape": shape, **shared, "windows": options.windows}
                if not rows.has(**key):
                    rows.add(**key, **measure({**SHAPES[shape], **METHODS[name], **shared}, options.windows))
    summarise(rows.all())


def measure(settings: dict[str, Any], windows: int) -> dict[str, Any]:
    """Cut once, in a process of its own, and judge the result beside the dense model."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        words = [sys.executable, "-m", "prunus", "shrink", MODEL, "-o", str(output), *flags, "--eval-windows=0", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
        record = json.loads(done.stdout)
        judged = {text: judge(output, text, settings["seqlen"], slice(windows)) for text in TEXTS}
    before, after = record["plan"]["parameters"]
    chosen = {name: size for name, (_, size) in record["plan"]["sizes"].items()} | {"layers": len(record["plan"]["blocks"])}
    return {"parameters": after, "share": after / before, "sizes": chosen, "seconds": record["seconds"],
            "peak_bytes": record["peak_memory_bytes"], **judged}  # fmt: skip


def summarise(rows: list[dict[str, Any]]) -> None:
    """Means over seeds, by shape and method."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["shape"], row["name"]].append(row)
    for (shape, name), found in sorted(
        groups.items(), key=lambda item: (item[0][0], item[1][0]["factbook-heldout"]["gap"])
    ):
        words = [f"{shape:10} {found[0]['share']:.1%} {name:24} seeds {len(found)}"]
        for text in TEXTS:
            mean = math.exp(sum(math.log(row[text]["perplexity"]) for row in found) / len(found))
            kl = sum(row[text]["kl"] for row in found) / len(found)
            words.append(f"{text}: perplexity {mean:8.2f} (dense {found[0][text]['dense']:.2f}), KL {kl:.3f}")
        print(", ".join(words))


if __name__ == "__main__":
    main()
