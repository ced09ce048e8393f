"""The record, table and model card of a structured run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..core import registry
from ..core.registry import spec_of
from ..measure.environment import environment
from ..measure.memory import peak_memory_bytes
from ..shrink_recipe import ShrinkRecipe
from ..structure.plan import ShrinkPlan
from ..structure.targets import Target
from .command import command_of
from .couplings import left_lines
from .names import short_name
from .record import headed

NAMES = {
    "heads": "query heads", "kv_groups": "key/value heads", "neurons": "feed-forward neurons", "width": "hidden width",
    "experts": "experts", "layers": "blocks",
}  # fmt: skip

_CARD = """---
library_name: transformers
tags: [prunus, pruned]
---

# {name}, {share:.0%} of the parameters

Cut with prunus {version}: an ordinary checkpoint, loaded with plain `AutoModelForCausalLM.from_pretrained`.

| | dense | cut |
|---|---|---|
{rows}

Units were chosen by {importance}; what reads them was repaired with {solver} on {calibration}.

## Reproduce

```sh
{command}
```

Which units stayed in each block, every layer's error and all versions are in `prunus.json`.
"""


def shrink_record(plan: ShrinkPlan, recipe: ShrinkRecipe, results: list[dict[str, Any]], proof: Mapping[str, Any],
                  evaluation: Mapping[str, Any] | None, sizes: tuple[int, int]) -> dict[str, Any]:  # fmt: skip
    """The record of a finished run; ``sizes`` are the checkpoints' bytes. ``output`` and ``seconds`` are its verb's."""
    return {
        **headed("shrink"),
        "model": plan.model,
        "output": None,
        "seconds": None,
        "peak_memory_bytes": peak_memory_bytes(),
        "disk_bytes": list(sizes),
        "evaluation": dict(evaluation) if evaluation else None,
        "proof": dict(proof),
        "sites": results,
        "recipe": recipe.to_json(),
        "plan_digest": plan.digest(),
        "plan": plan.to_json(),
        "environment": environment(),
    }


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What there was and what there is."""
    plan = record["plan"]
    rows = [(NAMES.get(name, name), f"{before:,}", f"{after:,}") for name, (before, after) in plan["sizes"].items()]
    if len(plan["blocks"]) < plan["count"]:
        rows.append((NAMES["layers"], str(plan["count"]), str(len(plan["blocks"]))))
    before, after = plan["parameters"]
    rows.append(("parameters", f"{before:,}", f"{after:,} ({after / before:.1%})"))
    rows += _target(plan.get("target"))
    one, two = record["disk_bytes"]
    rows.append(("size on disk", f"{one / 1e6:,.1f} MB", f"{two / 1e6:,.1f} MB"))
    found = record["evaluation"]
    if found:
        what = f"perplexity ({found['text']}, {found['tokens']} tokens, windows of {found['seqlen']})"
        rows.append((what, f"{found['dense']:.3f}", f"{found['pruned']:.3f}"))
    return rows


def _target(found: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """The target, where sizes were searched for one."""
    if not found or found["kind"] in ("params", "memory"):  # told without
        return []
    target = Target(found["kind"], found["asked"])
    what = {"flops": "operations a token", "latency": "time of a forward pass", "params_nonembedding": "without embeddings"}
    share = found["reached"] / found["dense"]
    return [(what[target.kind], target.told(found["dense"]), f"{target.told(found['reached'])} ({share:.1%})")]


def _searched(found: Mapping[str, Any] | None) -> list[RenderableType]:
    """The shapes that were tried for a target, best first."""
    if not found:
        return []
    table = Table(title=f"shapes tried for {escape(found['kind'])} {escape(found['asked'])}", title_justify="left")
    for column in ("sizes", "KL foretold", "KL on trial"):
        table.add_column(column, justify="left" if column == "sizes" else "right")
    for one in sorted(found["finalists"], key=lambda shape: shape["kl"]):
        sizes = ", ".join(f"{NAMES.get(name, name)} {size:,}" for name, size in one["sizes"].items()) or "whole"
        table.add_row(escape(sizes), f"{one['foretold']:.3f}", f"{one['kl']:.3f}")
    return [table]


def shrink_table(record: Mapping[str, Any]) -> RenderableType:
    """What a structured run did."""
    table = Table(title=escape(f"{record['model']}, cut"), title_justify="left")
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("cut", justify="right", overflow="fold")
    for what, before, after in _rows(record):
        table.add_row(escape(what), before, after)
    proof = record["proof"]
    if proof["masked"] is not None:
        table.add_row("cut equals masked: logits within", "", f"{proof['masked']:.1g} of their spread ✓")
    done, _, detail = proof["reload"].partition(":")
    table.add_row("reload check", "", escape(f"not tried ({detail.strip()})" if done == "not tried" else f"{done} ✓"))
    table.add_row("time, peak memory", "", f"{record['seconds']:.0f} s, {record['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("written to", "", escape(str(record["output"])))
    stays = left_lines(record["plan"]["left"], whole=False)
    return Group(table, *_searched(record["plan"].get("target")), *_errors(record), *stays)


def _errors(record: Mapping[str, Any]) -> list[RenderableType]:
    by_layer: dict[str, list[float]] = {}
    for site in record["sites"]:
        by_layer.setdefault(site["layer"], []).append(site["rel_error"])
    lines = [f"{layer}: {sum(errors) / len(errors):.4f}" for layer, errors in by_layer.items()]
    notes = dict.fromkeys(note for site in record["sites"] for note in site["notes"])
    told: list[RenderableType] = (
        [Text(f"mean error of what was repaired: {', '.join(lines)}", style="dim")] if lines else []
    )
    return [*told, *(Text(f"note: {note}", style="yellow") for note in list(notes)[:10])]


def shrunk_card(record: Mapping[str, Any]) -> str:
    """Markdown with what was cut, what it cost and how to reproduce it."""
    plan = record["plan"]
    before, after = plan["parameters"]
    calibration = plan["settings"].get("calibration")
    text = f"{calibration['tokens']:,} tokens of {calibration['text']}" if calibration else "no text"
    importance = dict(plan["importance"])
    paper = registry.importance.entries()[importance["name"]].paper
    return _CARD.format(
        name=short_name(str(record["model"])),
        share=after / before,
        version=record["environment"]["prunus"],
        rows="\n".join(f"| {what} | {one} | {two} |" for what, one, two in _rows(record)),
        importance=f"`{spec_of(importance)}` ({paper})",
        solver=f"`{spec_of(plan['method']['solver'])}`",
        calibration=text,
        command=command_of("shrink", record, ShrinkRecipe().to_json()),
    )
