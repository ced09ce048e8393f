"""The lab of docs/labs/language-models.md as rows: a model at three levels by four methods, judged and timed beside itself.

    python benchmarks/llm_lab.py MODEL FOLDER

``FOLDER`` keeps the pruned models: a stopped run goes on with the next one. Have the machine for yourself: all models take
turns in one process, which needs memory for them all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import prunus
from prunus.cli.progress import Bars
from prunus.verbs.compare import Figure
from rows import Rows

METHODS = ("magnitude", "wanda", "sparsegpt", "balanced")
LEVELS = (0.3, 0.5, 0.7)
CALIBRATED: dict[str, Any] = {"samples": 32, "seqlen": 256, "eval_windows": 0}
RECIPE = Path(__file__).parents[1] / "recipes" / "compare" / "llm-lab.toml"


def main() -> None:
    """A row a model, the dense one first."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    made = [(method, level, folder / f"{method}-{level:.0%}") for level in LEVELS for method in METHODS]
    for method, level, output in made:
        prunus.prune(name, output, method=method, sparsity=level, **CALIBRATED, resume=True, progress=Bars())
    recipe = prunus.CompareRecipe.read(RECIPE)
    found = prunus.compare(
        name, *(output for _, _, output in made), recipe=recipe, output=folder / "compared.json", overwrite=True,
        progress=Bars(),
    )  # fmt: skip
    rows = Rows(Path(__file__).parent / "rows" / "llm_lab.jsonl")
    asked = [("dense", 0.0), *((method, level) for method, level, _ in made)]
    for (method, level), side in zip(asked, found.models, strict=True):
        speed = side.decode_tokens_per_second
        rows.add(
            model=name, method=method, sparsity=level, perplexity=side.perplexity.value, interval=ends(side.perplexity),
            change=side.perplexity.value / found.dense.perplexity.value - 1, kl=side.kl.value,
            agreement=side.agreement.value, nonzeros=side.nonzeros, parameters=side.parameters,
            tokens_per_second=None if speed is None else [speed.median, speed.least, speed.most],
            continuations=side.continuations, tokens=found.tokens,
        )  # fmt: skip


def ends(figure: Figure) -> list[float] | None:
    """Of its interval."""
    return None if figure.interval is None else [figure.interval.low, figure.interval.high]


if __name__ == "__main__":
    main()
