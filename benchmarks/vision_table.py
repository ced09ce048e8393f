"""The table of a training or ticket recipe from rows of its seeds, which may have been measured one by one.

    python benchmarks/vision_table.py recipes/train/resnet18-cifar.toml
    python benchmarks/vision_table.py recipes/lottery/resnet20.toml

Rows count whose settings are the recipe's own; of several of a run and seed, the last. Changes are against the recipe's
first run with the same seed, leads of tickets over their controls by seed too.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from prunus.lottery_recipe import MASK, REINIT, LotteryRecipe
from prunus.report.trained import plus_minus, spread
from prunus.train_recipe import TrainRecipe
from vision import ROWS

ASIDE = ("seeds", "threads", "device", "latency", "model", "data", "runs")
"""Settings that may differ."""
Scores = dict[Any, dict[int, float]]
"""By what was trained, then by seed."""


def main() -> None:
    """One recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    path = parser.parse_args().recipe
    if "levels" in tomllib.loads(path.read_text()):
        tickets(path.stem, LotteryRecipe.read(path))
    else:
        training(path.stem, TrainRecipe.read(path))


def training(benchmark: str, recipe: TrainRecipe) -> None:
    """A line a run."""
    found = scores(
        [row for row in rows(benchmark, recipe.model, recipe.to_json())
         if (run := recipe.run(row["run"])) is not None and row["settings"] == run.to_json()], "run",
    )  # fmt: skip
    first = recipe.runs[0].name
    line("run", "seeds", "score", "change")
    line("---", "---", "---:", "---:")
    for run in recipe.runs:
        mine = found.get((run.name,), {})
        seeds = ", ".join(map(str, sorted(mine)))
        line(run.name, seeds, told([*mine.values()]), "" if run.name == first else lead(found, (run.name,), (first,)))


def tickets(benchmark: str, recipe: LotteryRecipe) -> None:
    """A line a level."""
    mine = rows(f"lottery-{benchmark}", recipe.training.model, recipe.to_json())
    found = scores(mine, "level", "kind")
    line("weights left", "seeds", "ticket", REINIT, MASK, "above the former", "above the latter")
    line(*["---:"] * 7)
    for level in range(recipe.levels + 1):
        ticket = (level, "ticket" if level else "dense")
        left = [1 - row["sparsity"] for row in mine if (row["level"], row["kind"]) == ticket]
        controls = [(level, kind) for kind in (REINIT, MASK)]
        line(
            f"{mean(left):.1%}" if left else "", ", ".join(map(str, sorted(found.get(ticket, {})))),
            *(told([*found.get(key, {}).values()]) for key in (ticket, *controls)),
            *(lead(found, ticket, control) for control in controls),
        )  # fmt: skip


def rows(benchmark: str, model: str, now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of a recipe as it is now."""
    return [
        row for row in ROWS.all() if row.get("benchmark") == benchmark and row["model"] == model
        and all(now[key] == value for key, value in row["recipe"].items() if key not in ASIDE)
    ]  # fmt: skip


def scores(mine: Sequence[Mapping[str, Any]], *keys: str) -> Scores:
    """Scores by the values of ``keys``, and by seed."""
    found: Scores = {}
    for row in mine:
        of_it = zip(row["recipe"]["seeds"], row["scores"], strict=True)
        found.setdefault(tuple(row[key] for key in keys), {}).update(of_it)
    return found


def told(values: Sequence[float]) -> str:
    """Their mean with its spread."""
    return plus_minus(mean(values), spread(values), "%") if values else ""


def lead(found: Scores, one: Hashable, other: Hashable) -> str:
    """By how much one is above another with the same seeds."""
    base = found.get(other, {})
    above = [score - base[seed] for seed, score in found.get(one, {}).items() if seed in base]
    return plus_minus(mean(above), spread(above), "", "+") if above else ""


def line(*cells: str) -> None:
    """One of the table."""
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
