"""The model card of a pruned checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import registry
from ..recipe import Recipe
from .command import command_of
from .names import short_name

_CARD = """---
library_name: transformers
tags: [prunus, pruned, sparse]
---

# {name}, {sparsity:.0%} sparse

Pruned with prunus {version}, method `{preset}`. {loads}

| | dense | pruned |
|---|---|---|
{rows}

## Method

{method}

## Reproduce

```sh
{command}
```

Zeros alone make no file smaller and no engine faster: that takes a packed format or a sparse kernel. Every layer's
sparsity and error, the full plan and all versions are in `prunus.json`.
"""


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown with what was pruned, what it cost and how to reproduce it."""
    name = short_name(str(record["model"]))
    return _CARD.format(
        name=name,
        sparsity=record["sparsity"],
        version=record["environment"]["prunus"],
        preset=record["method"],
        loads=_loads(record["proof"]),
        rows="\n".join(_rows(record)),
        method="\n".join(_method(record["plan"]["method"])),
        command=command_of("prune", record, Recipe().to_json(), ("method", "sparsity")),
    )


def _loads(proof: Mapping[str, Any]) -> str:
    """That it was reloaded, or what speaks for it where it was not."""
    if str(proof.get("reload", "")).startswith("not tried"):
        return "Names, shapes and dtypes of its tensors are those of the dense checkpoint (loading it was not tried here)."
    return "It loads with plain `AutoModelForCausalLM.from_pretrained`."


def _rows(record: Mapping[str, Any]) -> list[str]:
    sites = len(record["sites"])
    rows = [
        f"| zeros in the {sites} pruned matrices | | {record['sparsity']:.2%} |",
        f"| zeros in all parameters | | {record['sparsity_total']:.2%} |",
    ]
    packed = record["packed"]
    rows.append(
        f"| those matrices with values, positions and scales packed ({packed['bits_per_weight']:.2f} bits a weight) "
        f"| {packed['dense_bytes'] / 1e6:,.1f} MB | {packed['packed_bytes'] / 1e6:,.1f} MB |"
    )
    evaluation = record["evaluation"]
    if evaluation:
        what = f"perplexity, {evaluation['text']}, {evaluation['tokens']} tokens in windows of {evaluation['seqlen']}"
        rows.append(f"| {what} | {evaluation['dense']:.3f} | {evaluation['pruned']:.3f} |")
    return rows


def _method(method: Mapping[str, Any]) -> list[str]:
    lines = []
    for members in registry.AXES:
        for described in [method[members.axis]] if members.axis in method else method.get(f"{members.axis}s", ()):
            if described is None:
                continue
            choice = dict(described)
            entry = members.entries()[choice.pop("name")]
            options = ", ".join(f"{key} = {value}" for key, value in choice.items())
            lines.append(f"- {members.axis}: **{entry.name}**{f' ({options})' if options else ''}, {entry.paper}")
    return lines
