"""The record, the table and the card of a training recipe."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..measure.environment import environment
from ..measure.memory import peak_memory_bytes
from ..samples.examples import Samples
from ..train_recipe import RunSettings, TrainRecipe
from .record import headed
from .right import RIGHT, accuracy_interval, gap_interval

_CARD = """# `{model}` on `{data}`

{table}

{notes}

![{metric} against sparsity](accuracy.svg)

![{metric} over epochs](training.svg)

## The recipe

```toml
{recipe}
```

Every epoch of every run, all settings and all versions are in `prunus.json`; weights, plain state dicts, in
`RUN/seed-SEED/model.safetensors`.
"""


def train_record(recipe: TrainRecipe, samples: Samples, results: Sequence[Mapping[str, Any]],
                 latencies: Mapping[str, tuple[float, float]]) -> dict[str, Any]:  # fmt: skip
    """The record of a finished recipe; its plan, output and seconds are for its verb to say.

    ``latencies`` are seconds of a run, and of the first run measured beside it.
    """
    text = samples.is_text
    return {
        **headed("train"),
        "model": recipe.model, "data": recipe.data, "metric": "perplexity" if text else "accuracy",
        "samples": {
            "train": len(samples.train), "test": len(samples.test), "classes": samples.classes,
            "shape": list(samples.example().shape[1:]),
        },
        "rows": [_row(run, recipe, results, latencies.get(run.name), len(samples.test)) for run in recipe.runs],
        "results": [{key: value for key, value in result.items() if key != RIGHT} for result in results],
        "peak_memory_bytes": peak_memory_bytes(),
        "recipe": recipe.to_json(),
        "environment": environment(),
    }  # fmt: skip


def _row(run: RunSettings, recipe: TrainRecipe, results: Sequence[Mapping[str, Any]],
         latency: tuple[float, float] | None, tests: int) -> dict[str, Any]:  # fmt: skip
    """One run over all seeds; its change is against the first run with the same seed."""
    mine = [result for result in results if result["run"] == run.name]
    base = [result for result in results if result["run"] == recipe.runs[0].name]
    scores = [result["score"] for result in mine]
    changes = [result["score"] - before["score"] for result, before in zip(mine, base, strict=True)]
    one = mine[0]
    return {
        "run": run.name, "series": run.group, "score": mean(scores), "score_spread": spread(scores),
        "change": mean(changes), "change_spread": spread(changes),
        "interval": accuracy_interval(mine, tests), "change_interval": gap_interval(mine, base, tests),
        "latency_ms": 1e3 * latency[0] if latency else None, "speedup": latency[1] / latency[0] if latency else None,
        "file_bytes": one["file_bytes"], "parameters": one["parameters"],
        "nonzeros": round(mean(result["nonzeros"] for result in mine)),
        "packed_bytes": round(mean(result["packed"]["bytes"] for result in mine)) if one["packed"] else None,
        "packed_ratio": mean(result["packed"]["ratio"] for result in mine) if one["packed"] else None,
        "stages": one["packed"]["stages"] if one["packed"] else {},
        "sparsity": mean(result["sparsity"] for result in mine),
        "flops": mean(result["flops"] for result in mine), "training_flops": _training_flops(run, recipe, results),
        "seconds": sum(result["seconds"] for result in mine),
    }  # fmt: skip


def _training_flops(run: RunSettings, recipe: TrainRecipe, results: Sequence[Mapping[str, Any]]) -> float:
    """Of a run and of those that it starts from, one upon another; mean over the seeds."""
    own: float = mean(result["training_flops"] for result in results if result["run"] == run.name)
    before = recipe.run(run.start)
    return own + (_training_flops(before, recipe, results) if before is not None else 0.0)


def spread(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; of one value none is known."""
    return stdev(values) if len(values) > 1 else None


def _cells(record: Mapping[str, Any]) -> list[list[str]]:
    """The table: its head, then a line a run."""
    text = record["metric"] == "perplexity"
    unit = "" if text else "%"
    packed = any(row["packed_bytes"] for row in record["rows"])
    head = [
        "model",
        record["metric"],
        "change",
        "latency ms",
        "speed-up",
        "size MB",
        "non-zeros",
        "sparsity",
        "training FLOPs",
    ]
    lines = [[*head, "packed kB", "smaller"] if packed else head]
    trained = record["rows"][0]["training_flops"]
    for number, row in enumerate(record["rows"]):
        lines.append([
            row["run"], plus_minus(row["score"], row["score_spread"], unit),
            plus_minus(row["change"], row["change_spread"], "", "+") if number else "",
            "" if row["latency_ms"] is None else f"{row['latency_ms']:.3g}",
            "" if row["speedup"] is None else f"{row['speedup']:.2f}×",
            f"{row['file_bytes'] / 1e6:.2f}", f"{row['nonzeros']:,}", f"{row['sparsity']:.1%}",
            f"{row['training_flops'] / trained:.2f}×" if trained else "",
        ])  # fmt: skip
        if packed:
            size, ratio = row["packed_bytes"], row["packed_ratio"]
            lines[-1] += [f"{size / 1e3:.1f}", f"{ratio:.1f}×"] if size else ["", ""]
    return lines


def plus_minus(value: float, spread: float | None, unit: str, sign: str = "") -> str:
    """A figure with its spread.

    >>> plus_minus(91.234, 0.2, "%"), plus_minus(-0.5, None, "", "+"), plus_minus(-0.001, None, "", "+")
    ('91.23% ± 0.20', '-0.50', '+0.00')
    """
    return f"{value:{sign}z.2f}{unit}" + (f" ± {spread:.2f}" if spread is not None else "")


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What the figures are."""
    samples, recipe = record["samples"], record["recipe"]
    seeds = recipe["seeds"]
    many = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    shape = "×".join(map(str, samples["shape"]))
    kind = "windows" if record["metric"] == "perplexity" else "images"
    first = record["rows"][0]["run"]
    counts = f"{samples['train']:,} {kind} to train on, {samples['test']:,} to test, {shape}"
    told = [f"{counts}; {many}; change: against {first} with the same seed; weights are those behind the last epoch."]
    if recipe["latency"]:
        told.append(
            f"Latency: one example, median of {recipe['latency']} passes after 50, in turn with {first}, "
            f"threads: {record['environment']['threads']}; size: the file of weights as written, zeros and all."
        )
    inside = inside_noise(record["rows"][1:])
    if inside:
        told.append(f"Inside the noise of {samples['test']:,} test images (95%): {', '.join(inside)}.")
    if record["rows"][0]["training_flops"]:
        told.append(
            f"Training FLOPs: against {first}; of a run and of those it starts from, forward and backward, as if zeros "
            "cost nothing."
        )
    return told


def inside_noise(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs whose change may as well be none, by the test images, with its interval."""
    found = [(row["run"], row["change_interval"]) for row in rows if row.get("change_interval") is not None]
    return [f"{run} ({at['low']:+.2f} to {at['high']:+.2f})" for run, at in found if at["low"] <= 0 <= at["high"]]


def train_table(record: Mapping[str, Any]) -> RenderableType:
    """What the runs came to, for a terminal."""
    head, *lines = _cells(record)
    title = escape(f"{record['model']} on {record['data']}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column(head[0], overflow="fold", min_width=8)
    for name, *cells in list(zip(head, *lines, strict=True))[1:]:
        spreads = any("±" in cell for cell in cells)  # those may go to a line of their own
        table.add_column(name.replace(" ", "\n").replace("-", "-\n"), justify="right", no_wrap=not spreads)
    for line in lines:
        table.add_row(*(escape(cell.replace("± ", "±")) for cell in line))
    spent = f"{record['seconds']:.0f} s, peak {record['peak_memory_bytes'] / 2**30:.2f} GiB"
    told = (*_notes(record), f"{spent}; written to {record['output']}")
    return Group(table, *(Text(note, style="dim") for note in told))


_STAGES = ("layer", "weights", "kept", "code bits", "Huffman", "position bits", "Huffman", "pruned", "shared", "Huffman")


def _stage_lines(record: Mapping[str, Any]) -> str:
    """Of runs that share weights, as Deep Compression's tables have it: bits and ratios to fp32, stage by stage."""
    text = ""
    for row in record["rows"]:
        if row["stages"]:
            text += f"\n\n{row['run']}, fp32 bytes ÷ bytes (seed {record['recipe']['seeds'][0]}):\n\n"
            text += "| " + " | ".join(_STAGES) + " |\n|---|" + "---:|" * (len(_STAGES) - 1) + "\n"
        for name, one in row["stages"].items():
            code, places, ratios = one["code_bits"], one["position_bits"], one["ratios"]
            cells = [
                name.removesuffix(".weight"), f"{one['weights']:,}", f"{one['kept'] / one['weights']:.1%}",
                f"{code['shared']:.2g}", f"{code['huffman']:.2f}", f"{places['shared']:.2g}", f"{places['huffman']:.2f}",
                *(f"{ratios[stage]:.2f}" for stage in ("pruned", "shared", "huffman")),
            ]  # fmt: skip
            text += "| " + " | ".join(cells) + " |\n"
    return text.rstrip()


def train_card(record: Mapping[str, Any]) -> str:
    """The same as Markdown, with the pictures and the recipe."""
    head, *lines = _cells(record)
    rows = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    rows += ["| " + " | ".join(line) + " |" for line in lines]
    return _CARD.format(
        model=record["model"], data=record["data"], metric=record["metric"], table="\n".join(rows) + _stage_lines(record),
        notes="\n".join(_notes(record)), recipe=recipe_toml(record["recipe"]),
    )  # fmt: skip


def recipe_toml(recipe: Mapping[str, Any]) -> str:
    """A recipe's plain values as TOML, which reads back as the same recipe.

    >>> print(recipe_toml({"lr": 0.1, "seeds": [0, 1], "runs": [{"name": "a", "prune": {"method": "magnitude"}}]}))
    lr = 0.1
    seeds = [0, 1]
    <BLANKLINE>
    [[runs]]
    name = "a"
    prune = { method = "magnitude" }
    """
    lines = [f"{key} = {_toml(value)}" for key, value in recipe.items() if key != "runs"]
    for run in recipe.get("runs", ()):
        lines += ["", "[[runs]]", *(f"{key} = {_toml(value)}" for key, value in run.items())]
    text = "\n".join(lines)
    tomllib.loads(text)
    return text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes are JSON's


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _toml(name)
