"""The record, table, curves and model card of a healing run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..heal_recipe import HealRecipe, learnt
from ..measure.environment import environment
from ..measure.memory import peak_memory_bytes
from .command import command_of
from .names import short_name

_CARD = """---
library_name: transformers
tags: [prunus]
---

# {name}, healed

Trained on with prunus {version}: an ordinary checkpoint, loaded with plain `AutoModelForCausalLM.from_pretrained`.

| | before | after |
|---|---|---|
{rows}

![losses over training steps](training.svg)

## Reproduce

```sh
{command}
```

Every loss that was logged, all settings and all versions are in `prunus.json`.
"""


def heal_record(recipe: HealRecipe, history: Sequence[Mapping[str, Any]], proof: Mapping[str, Any],
                evaluation: Mapping[str, Any] | None) -> dict[str, Any]:  # fmt: skip
    """The record of a finished run, from the Trainer's ``history``; how it begins, who ran it, on what and
    how long is its verb's to say."""
    training = [[entry["step"], entry["loss"], entry["learning_rate"]] for entry in history if "loss" in entry]
    held_out = list(
        {entry["step"]: [entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry}.values()
    )
    best = min(held_out, key=lambda point: point[1])
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "losses": {"training": training, "held_out": held_out},
        "held_out": {"before": held_out[0][1], "after": best[1], "step": best[0], "last_step": max(p[0] for p in held_out)},
        "evaluation": dict(evaluation) if evaluation else None,
        "zeros_held": proof["zeros_held"],
        "proof": dict(proof),
        "recipe": recipe.to_json(),
        "environment": environment(),
    }


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    held = record["held_out"]
    rows = [("loss on held-out windows", f"{held['before']:.4f}", f"{held['after']:.4f} (step {held['step']})")]
    found = record["evaluation"]
    if found:
        what = f"perplexity ({found['text']}, {found['tokens']} tokens, windows of {found['seqlen']})"
        rows.append((what, f"{found['before']:.3f}", f"{found['after']:.3f}"))
        if "teacher" in found:
            rows.append(("the teacher's", f"{found['teacher']:.3f}", ""))
            rows.append(("KL to the teacher, nats a token", f"{found['kl_before']:.4f}", f"{found['kl_after']:.4f}"))
    if record["zeros_held"]:
        rows.append(("zeros held", f"{record['zeros_held']:,}", f"{record['proof']['zeros_held']:,} ✓"))
    return rows


def healed_table(record: Mapping[str, Any]) -> RenderableType:
    """What a healing run did."""
    table = Table(title=escape(f"{record['model']}, healed"), title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for row in _rows(record):
        table.add_row(*map(escape, row))
    done, _, detail = record["proof"]["reload"].partition(":")
    table.add_row("reload check", "", escape(f"not tried ({detail.strip()})" if done == "not tried" else f"{done} ✓"))
    table.add_row("time, peak memory", "", f"{record['seconds']:.0f} s, {record['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("written to", "", escape(str(record["output"])))
    held = record["held_out"]
    notes = []
    if held["after"] >= held["before"]:
        notes.append("the held-out loss did not fall: the weights are as they were. Try another --lr, or more --tokens")
    elif held["step"] < held["last_step"]:
        notes.append(f"the weights are those of step {held['step']}, where the held-out loss was lowest")
    return Group(table, *(Text(f"note: {note}", style="yellow") for note in notes))


def curves_svg(record: Mapping[str, Any]) -> str:
    """Training and held-out losses over steps, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("training", "training", "-"), ("held_out", "held out", "o-")):
        points = record["losses"][key]
        if points:
            axes.plot([point[0] for point in points], [point[1] for point in points], style, label=label, markersize=4)
    axes.axvline(record["held_out"]["step"], linestyle=":", color="grey", label="kept")
    losses = learnt(record["recipe"]["loss"], record["recipe"]["teacher"])
    axes.set_title(f"loss: {' + '.join(losses)}", parse_math=False, fontsize="medium", wrap=True)
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def healed_card(record: Mapping[str, Any]) -> str:
    """Markdown with what was gained and how to reproduce it."""
    return _CARD.format(
        name=short_name(str(record["model"])),
        version=record["environment"]["prunus"],
        rows="\n".join(f"| {what} | {one} | {two} |" for what, one, two in _rows(record)),
        command=command_of(record["kind"], record, HealRecipe().to_json()),
    )
