"""Training and ticket recipes as rows: every run's score over the seeds, beside what it is compared with.

    python benchmarks/vision.py recipes/train/lenet-300-100.toml FOLDER
    python benchmarks/vision.py recipes/lottery/resnet20.toml FOLDER --data npz:cifar10-10k.npz

``FOLDER`` gets what ``prunus train`` or ``prunus lottery`` leaves; a stopped run goes on.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prunus
from prunus.cli.options import whole_numbers
from prunus.cli.progress import Bars
from prunus.lottery_recipe import LotteryRecipe
from prunus.train_recipe import TrainRecipe
from rows import Rows

ROWS = Rows(Path(__file__).parent / "rows" / "vision.jsonl")


def main() -> None:
    """One recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="in the place of the recipe's")
    parser.add_argument("--lr", type=float, help="in the place of the recipe's, to see which rate is best")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seeds", help="in the place of the recipe's, one or several: 0,1")
    parser.add_argument("--run", action="append", help="this run alone, and those that it begins with or learns from")
    options = parser.parse_args()
    given = {"data": options.data, "lr": options.lr, "threads": options.threads, "seeds": whole_numbers(options.seeds)}
    if "levels" in tomllib.loads(options.recipe.read_text()):
        tickets(options.recipe, options.folder, LotteryRecipe.read(options.recipe, given))
    else:
        recipe = TrainRecipe.read(options.recipe, given)
        training(options.recipe, options.folder, recipe.only(options.run) if options.run else recipe)


def training(path: Path, folder: Path, recipe: TrainRecipe) -> None:
    """A row a run."""
    record = prunus.train_runs(folder, recipe, resume=True, progress=Bars()).record
    for row in record["rows"]:
        run = next(run for run in recipe.runs if run.name == row["run"])
        ROWS.add(
            benchmark=path.stem, run=row["run"], **about(record), epochs=recipe.epochs_of(run), settings=run.to_json(),
            sparsity=row["sparsity"], parameters=row["parameters"], nonzeros=row["nonzeros"], score=row["score"],
            score_spread=row["score_spread"], change=row["change"], change_spread=row["change_spread"],
            scores=[one["score"] for one in record["results"] if one["run"] == row["run"]],
            latency_ms=row["latency_ms"], seconds=round(row["seconds"], 1), flops=row["flops"],
            training_flops=row["training_flops"], file_bytes=row["file_bytes"], packed_bytes=row["packed_bytes"],
            packed_ratio=row["packed_ratio"], stages=row["stages"].get("together"),
        )  # fmt: skip


def tickets(path: Path, folder: Path, recipe: LotteryRecipe) -> None:
    """A row a level and kind of network."""
    record = prunus.lottery(folder, recipe, resume=True, progress=Bars()).record
    for row in record["rows"]:
        mine = [one for one in record["results"] if (one["level"], one["kind"]) == (row["level"], row["kind"])]
        ROWS.add(benchmark=f"lottery-{path.stem}", **about(record), **row, scores=[one["score"] for one in mine])


def about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of a recipe share; of a file with data only the name."""
    recipe = {key: value for key, value in record["recipe"].items() if key not in ("runs", "data")}
    kind, colon, rest = record["data"].partition(":")
    return {
        "model": record["model"],
        "data": f"{kind}{colon}{Path(rest).name}",
        "samples": record["samples"],
        "recipe": recipe,
    }


if __name__ == "__main__":
    main()
