"""The record, the table and the card of a search for lottery tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..lottery_recipe import MASK, REINIT, LotteryRecipe
from ..measure.environment import environment
from ..measure.memory import peak_memory_bytes
from ..samples.examples import Samples
from .record import headed
from .trained import plus_minus, recipe_toml, spread

_CARD = """# Lottery tickets: `{model}` on `{data}`

{table}

{notes}

{pictures}

## The recipe

```toml
{recipe}
```

Every look at every network is in `prunus.json`; masks are in `seed-SEED/level-LEVEL/masks.safetensors`, weights, plain
state dicts, beside them, what tickets are rewound to in `seed-SEED/rewind.safetensors`.
"""
_KINDS = ("dense", "ticket", REINIT, MASK)


def lottery_record(recipe: LotteryRecipe, samples: Samples, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a finished search; its plan, output and seconds are for its verb to say."""
    keys = dict.fromkeys((result["level"], result["kind"]) for result in results)
    return {
        **headed("lottery"),
        "model": recipe.training.model, "data": recipe.training.data,
        "metric": "perplexity" if samples.is_text else "accuracy",
        "samples": {"train": len(samples.train), "test": len(samples.test), "classes": samples.classes},
        "rows": [_row(level, kind, results) for level, kind in keys],
        "results": [dict(result) for result in results],
        "peak_memory_bytes": peak_memory_bytes(),
        "recipe": recipe.to_json(),
        "environment": environment(),
    }  # fmt: skip


def _row(level: int, kind: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One kind of network at one level, over all seeds."""
    mine = [result for result in results if (result["level"], result["kind"]) == (level, kind)]
    scores, steps = [result["score"] for result in mine], [result["early"]["step"] for result in mine]
    barriers = [result["barrier"] for result in mine if "barrier" in result]
    leads = _leads(mine, results) if kind in (REINIT, MASK) else []
    return {
        "level": level, "kind": kind, "sparsity": mean(result["sparsity"] for result in mine),
        "score": mean(scores), "score_spread": spread(scores),
        "early_step": mean(steps), "early_step_spread": spread(steps),
        "early_score": mean(result["early"]["score"] for result in mine),
        "barrier": mean(barriers) if barriers else None, "barrier_spread": spread(barriers) if barriers else None,
        "ticket_lead": mean(leads) if leads else None, "ticket_lead_spread": spread(leads) if leads else None,
    }  # fmt: skip


def _leads(controls: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> list[float]:
    """How far each control's ticket, of its level and seed, scores above it."""
    tickets = {(one["level"], one["seed"]): one["score"] for one in results if one["kind"] == "ticket"}
    return [tickets[one["level"], one["seed"]] - one["score"] for one in controls]


def _cells(record: Mapping[str, Any]) -> list[list[str]]:
    """The table: its head, then a line a level."""
    kinds = [kind for kind in _KINDS if any(row["kind"] == kind for row in record["rows"])]
    rows = {(row["level"], row["kind"]): row for row in record["rows"]}
    drawn = [kind for kind in kinds if kind != "dense"]
    stable = any(row["barrier"] is not None for row in record["rows"])
    short = [kind.removeprefix("random-") for kind in drawn]
    head = ["left", *short, *(f"steps {kind}" for kind in short), *(["barrier"] if stable else [])]
    lines = [head]
    for level in dict.fromkeys(row["level"] for row in record["rows"]):
        first = rows.get((level, "ticket")) or rows[level, "dense"]
        cells = [f"{1 - first['sparsity']:.1%}"]
        of = {kind: rows.get((level, "dense" if not level and kind == "ticket" else kind)) for kind in drawn}
        cells += [_close(row["score"], row["score_spread"]) if row else "" for row in of.values()]
        cells += [f"{row['early_step']:,.0f}" if row else "" for row in of.values()]
        again = rows.get((level, "ticket-again"))
        cells += [_close(again["barrier"], again["barrier_spread"]) if again else ""] if stable else []
        lines.append(cells)
    return lines


def _close(value: float, spread: float | None) -> str:
    """A figure with its spread, in few signs."""
    return f"{value:.2f}" + (f"±{spread:.2f}" if spread is not None else "")


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What the figures are."""
    recipe, seeds = record["recipe"], record["recipe"]["seeds"]
    many = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    share = 0 < recipe["rewind"] < 1
    step = f"{recipe['rewind']:.2%} of all steps" if share else f"step {recipe['rewind']:g}"
    first = f"{record['metric']} behind the last epoch of {recipe['epochs']}; {many}. The first line is the dense network."
    looks = (
        f"Steps: behind how many the test loss was lowest, of {recipe['looks']} looks an epoch; nothing is chosen by it."
    )
    goes = f"A level takes {recipe['rate']:.0%} of what is left ({recipe['allocation']}); weights are rewound to {step}."
    told = [
        f"{first} {looks}",
        goes,
        "reinit: the ticket on other initial weights; mask: as many weights of each layer, any.",
    ]
    for kind in (REINIT, MASK):
        leads = [
            f"{plus_minus(row['ticket_lead'], row['ticket_lead_spread'], '', '+')} with {1 - row['sparsity']:.1%}"
            for row in record["rows"] if row["kind"] == kind
        ]  # fmt: skip
        if leads:
            told.append(f"Ticket less {kind.removeprefix('random-')}, by seed: {', '.join(leads)} left.")
    if recipe["stability"]:
        what = "loss, in nats," if record["metric"] == "perplexity" else "error, in points,"
        told.append(f"Barrier: how much the {what} rises on the line to the same network trained in another order.")
    return told


def lottery_table(record: Mapping[str, Any]) -> RenderableType:
    """What the levels came to, for a terminal."""
    head, *lines = _cells(record)
    title = escape(f"Lottery tickets: {record['model']} on {record['data']}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in head:
        table.add_column(name.replace(" ", "\n"), justify="right", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    spent = f"{record['seconds']:.0f} s, peak {record['peak_memory_bytes'] / 2**30:.2f} GiB"
    return Group(table, *(Text(note, style="dim") for note in (*_notes(record), f"{spent}; written to {record['output']}")))


def lottery_card(record: Mapping[str, Any]) -> str:
    """The same as Markdown, with the pictures and the recipe."""
    from .lottery_pictures import pictures

    head, *lines = _cells(record)
    rows = ["| " + " | ".join(head) + " |", "|---:" * len(head) + "|"]
    rows += ["| " + " | ".join(line) + " |" for line in lines]
    return _CARD.format(
        model=record["model"], data=record["data"], table="\n".join(rows), notes="\n".join(_notes(record)),
        pictures="\n\n".join(f"![{name.removesuffix('.svg')}]({name})" for name in pictures(record)),
        recipe=recipe_toml(record["recipe"]),
    )  # fmt: skip
