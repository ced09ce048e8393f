"""Records as terminal tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..core import registry
from ..core.plan import Plan


def prune_table(record: Mapping[str, Any]) -> RenderableType:
    """What a run did, by kind of layer, and dense against pruned."""
    layers = Table(title=escape(f"{record['method']} on {record['model']}"), title_justify="left")
    layers.add_column("layers", overflow="fold")  # long names give way, never the figures
    for name in ("count", "shape", "sparsity", "error", "worst", "in block"):
        layers.add_column(name, justify="right", no_wrap=True)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for site in record["sites"]:
        groups[site["layer"]].append(site)
    for role, sites in groups.items():
        worst = max(sites, key=lambda site: site["rel_error"])
        mean = sum(site["rel_error"] for site in sites) / len(sites)
        layers.add_row(
            escape(role), str(len(sites)), "×".join(map(str, sites[0]["shape"])),
            f"{sum(site['sparsity'] for site in sites) / len(sites):.2%}", f"{mean:.4f}", f"{worst['rel_error']:.4f}",
            "-" if worst["block"] is None else str(worst["block"]),
        )  # fmt: skip
    lines: list[RenderableType] = [layers, _before_after(record), *_coverage(record), *_permuted(record)]
    lines += _notes(record)
    lines.append(Text(_error_of(record), style="dim"))
    return Group(*lines)


def _notes(record: Mapping[str, Any]) -> list[RenderableType]:
    """What was noted of layers, each note once."""
    names: dict[str, list[str]] = defaultdict(list)
    for site in record["sites"]:
        for note in site["notes"]:
            names[note].append(site["name"])
    told = []
    for note, found in names.items():
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        told.append(f"note: {found[0]}{others}: {note}")
    more = [f"and {len(told) - 10} more notes, see prunus.json"] if len(told) > 10 else []
    return [Text(line, style="yellow") for line in (*told[:10], *more)]


def _permuted(record: Mapping[str, Any]) -> list[RenderableType]:
    """In how many layers inputs changed places."""
    count = sum(site["permuted"] for site in record["sites"])
    if not count:
        return []
    return [Text(f"the inputs of {count} of {len(record['sites'])} layers were put in another order", style="dim")]


def _coverage(record: Mapping[str, Any]) -> list[RenderableType]:
    """How many tokens reached each expert, where there are any."""
    sites = [site for site in record["sites"] if "experts" in site]
    if not sites:
        return []
    tokens = [count for site in sites for count in site["experts"]["tokens"]]
    starved = sum(len(site["experts"]["starved"]) for site in sites)
    recipe = record["recipe"]
    line = f"experts: {min(tokens)} to {max(tokens)} tokens each"
    if starved:
        line += (
            f"; {starved} of {len(tokens)} expert matrices saw fewer than {recipe['min_expert_tokens']} "
            f"(--starved-experts {recipe['starved_experts']}), see prunus.json"
        )
    return [Text(line, style="yellow" if starved else "dim")]


def _error_of(record: Mapping[str, Any]) -> str:
    """What the errors of the table are."""
    kinds = {site["error_of"] for site in record["sites"]}
    if "block" in kinds:
        return "error is that of the layer's whole block: the mean over tokens of ‖y−ŷ‖²/‖y‖² of its hidden states"
    tokens = {"weight": ", here with X = I: no text was looked at", "sample": " on evenly spaced calibration tokens"}
    where = tokens[kinds.pop()] if kinds in ({"weight"}, {"sample"}) else " on all calibration tokens"
    return f"error is the mean of ‖(W−Ŵ)X‖²/‖WX‖²{where}"


def _before_after(record: Mapping[str, Any]) -> Table:
    table = Table(title="dense against pruned", title_justify="left")
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("pruned", justify="right")
    evaluation = record["evaluation"]
    if evaluation:
        what = f"perplexity ({evaluation['text']}, {evaluation['tokens']} tokens, windows of {evaluation['seqlen']})"
        table.add_row(escape(what), f"{evaluation['dense']:.3f}", f"[bold]{evaluation['pruned']:.3f}")
    proof = record["proof"]
    table.add_row("zeros in the pruned layers", "", f"{record['sparsity']:.2%}")
    table.add_row("zeros in all parameters", "", f"{record['sparsity_total']:.2%}")
    packed = record["packed"]
    after = f"{packed['packed_bytes'] / 1e6:,.1f} MB, {packed['bits_per_weight']:.2f} bits a weight"
    table.add_row("those layers, packed (not written so)", f"{packed['dense_bytes'] / 1e6:,.1f} MB", after)
    if "nonzeros" in proof:
        table.add_row("parameters; not zero", f"{proof['parameters']:,}", f"{proof['nonzeros']:,}")
        done, _, detail = proof["reload"].partition(":")
        table.add_row("reload check", "", escape(f"not tried ({detail.strip()})" if done == "not tried" else f"{done} ✓"))
    table.add_row("time, peak memory", "", f"{record['seconds']:.0f} s, {record['peak_memory_bytes'] / 2**30:.2f} GiB")
    if record["output"]:
        table.add_row("written to", "", escape(str(record["output"])))
    return table


def plan_table(plan: Plan) -> RenderableType:
    """Every step of a plan by kind of layer, what is left alone, and the estimate."""
    table = Table(title=escape(f"plan: {plan.method_name} on {plan.model}"), title_justify="left")
    groups: dict[tuple[str, tuple[int, int, int], str], list[Any]] = defaultdict(list)
    for step in plan.steps:
        groups[(step.site.role, step.site.shape, registry.pattern.spec(step.pattern))].append(step)
    patterns = {pattern for _, _, pattern in groups}
    several = len(patterns) > 1  # one that all layers have is told below
    for name in ("layers", "count", "shape", *(["pattern"] if several else []), "sparsity"):
        wraps = name in ("layers", "pattern")
        table.add_column(name, justify="left" if name == "layers" else "right", no_wrap=not wraps, overflow="fold")
    for (role, shape, pattern), steps in groups.items():
        low, high = min(s.sparsity for s in steps), max(s.sparsity for s in steps)
        sizes = "×".join(map(str, shape if shape[0] > 1 else shape[1:]))
        table.add_row(
            escape(role), str(len(steps)), sizes, *([escape(pattern)] if several else []),
            f"{low:.2%}" if low == high else f"{low:.2%} … {high:.2%}",
        )  # fmt: skip
    weights = sum(step.site.numel for step in plan.steps)
    what = f"{plan.target:.2%} of {weights:,} weights in {len(plan.steps)} matrices"
    alike = "" if several else f", {patterns.pop()}"
    lines: list[RenderableType] = [table, Text(f"{what}{alike}; {plan.parameters:,} parameters")]
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in plan.untouched.items():
        reasons[reason].append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(Text(f"left alone ({reason}): {', '.join(names[:2])}{more}"))
    calibration = plan.settings.get("calibration")
    if calibration:
        words = f"calibration: {calibration['samples']} windows × {calibration['seqlen']} tokens of {calibration['text']}"
        lines.append(Text(words + (f", {calibration['own']} of them written by the model" if calibration["own"] else "")))
    if plan.estimate:
        estimate = plan.estimate
        on_gpu = f"{estimate.gpu_bytes / 2**30:.2f} GiB on the GPU, " if estimate.gpu_bytes else ""
        lines.append(
            Text(
                f"estimate: {estimate.seconds:.0f} s, {estimate.memory_bytes / 2**30:.2f} GiB of memory, {on_gpu}"
                f"{estimate.disk_bytes / 1e9:.2f} GB on disk",
                style="bold",
            )
        )
    return Group(*lines)
