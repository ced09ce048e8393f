"""The table of a training recipe from rows of its seeds, which may have been measured one by one.

    python benchmarks/vision_table.py recipes/train/resnet18-cifar.toml

Rows count whose settings are the recipe's own; of several of a run and seed, the last. Changes are against the recipe's
first run with the same seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from prunus.report.trained import plus_minus, spread
from prunus.train_recipe import TrainRecipe
from vision import ROWS

ASIDE = ("seeds", "threads", "device", "latency", "model", "data", "runs")
"""Settings that may differ."""


def main() -> None:
    """One recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    path = parser.parse_args().recipe
    recipe = TrainRecipe.read(path)
    found = scores_of(path.stem, recipe)
    base = found.get(recipe.runs[0].name, {})
    print("| run | seeds | score | change |\n|---|---|---:|---:|")
    for run in recipe.runs:
        mine = found.get(run.name, {})
        changes = [score - base[seed] for seed, score in mine.items() if seed in base]
        cells = [run.name, ", ".join(map(str, sorted(mine)))]
        cells += [plus_minus(mean(mine.values()), spread([*mine.values()]), "%") if mine else ""]
        cells += [plus_minus(mean(changes), spread(changes), "", "+") if changes and run is not recipe.runs[0] else ""]
        print("| " + " | ".join(cells) + " |")


def scores_of(benchmark: str, recipe: TrainRecipe) -> dict[str, dict[int, float]]:
    """Scores by run and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in ROWS.all():
        if row.get("benchmark") == benchmark and _same(row, recipe):
            found.setdefault(row["run"], {}).update(zip(row["recipe"]["seeds"], row["scores"], strict=True))
    return found


def _same(row: Mapping[str, Any], recipe: TrainRecipe) -> bool:
    """Whether a row is of the recipe as it is now."""
    now, run = recipe.to_json(), recipe.run(row["run"])
    settings = {key: value for key, value in row["recipe"].items() if key not in ASIDE}
    return (
        row["model"] == recipe.model and run is not None and row["settings"] == run.to_json()
        and all(now[key] == value for key, value in settings.items())
    )  # fmt: skip


if __name__ == "__main__":
    main()
