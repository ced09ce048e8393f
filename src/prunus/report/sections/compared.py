"""A comparison: the six dimensions, what is more, tasks, weights, continuations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..compared import decimals, megabytes, millions
from ..document import Block, Folded, Paragraph, Picture, Table
from ..names import ABREAST, column_names, short_names
from ..pictures import lines_svg
from ..words import Words

_DEVICES = (1, 2, 4, 8, 16, 24, 32, 48, 80)
"""GiB that phones, boards, laptops and accelerators come with."""


def title(record: Mapping[str, Any], words: Words) -> str:
    """What is compared."""
    names = short_names([str(model["model"]) for model in record["models"]])
    few = ", ".join(names[:ABREAST])
    left = len(names) - ABREAST
    return words("comparison", models=words("and_more", names=few, count=left) if left > 0 else few)


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    models, recipe, machine = record["models"], record["recipe"], record["environment"]
    names = column_names([str(model["model"]) for model in models], words("dense"), words("pruned"))
    yield Paragraph(
        words(
            "judged_on",
            tokens=record["tokens"],
            text=recipe["text"],
            seqlen=recipe["seqlen"],
            processor=machine["processor"],
            threads=machine["threads"],
        )
    )
    yield _abreast(words("dimension"), names, _dimensions(models, recipe, words), words)
    source = next((model["costs"]["source"] for model in models if model["costs"] and model["costs"]["source"]), None)
    if source:
        yield Paragraph(words("energy_source", source=source))
    for what in record["not_measured"]:
        yield Paragraph(words("missing", what=what), warning=True)
    yield Folded(words("details"), [_abreast("", names, _more(models, recipe, words), words)])
    if any(model["tasks"] for model in models):
        yield _abreast(words("task"), names, _tasks(models, words), words)
    if all(model.get("weights") for model in models):
        yield _weights(models, names, words)
        zeros = ", ".join(
            words("zeros_of", model=name, count=f"{model['weights']['zeros']:,}")
            for name, model in zip(names, models, strict=True)
        )
        yield Paragraph(words("weights_note", zeros=zeros))
    if models[0]["continuations"]:
        drawn = words("drawn", temperature=recipe["temperature"], top_p=recipe["top_p"], seed=recipe["seed"])
        how = drawn if recipe["temperature"] else words("greedy")
        yield Paragraph(words("continuations", how=how))
        head, said = (
            [words("prompt"), *names],
            zip(recipe["prompts"], *(one["continuations"] for one in models), strict=True),
        )
        rows = [list(texts) for texts in said]
        if len(names) > ABREAST:
            yield from (Table(head, [row], words=True).turned(words("model")) for row in rows)
        else:
            yield Table(head, rows, words=True)


def _abreast(corner: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], words: Words) -> Table:
    """A column a model, or of many a row each."""
    table = Table([corner, *names], [[label, *cells] for label, cells in rows])
    return table.turned(words("model")) if len(names) > ABREAST else table


def figure(value: Mapping[str, Any], form: str) -> str:
    """A figure with the ends of its interval."""
    told, interval = form.format(value["value"]), value["interval"]
    if interval is None or interval["low"] == interval["high"]:
        return told
    return f"{told} ({form.format(interval['low'])} – {form.format(interval['high'])})"


def timing(value: Mapping[str, Any] | None, words: Words, form: str = "{:,.1f}") -> str:
    """The median of a timing with its range."""
    if value is None:
        return words("not_known")
    return f"{form.format(value['median'])} ({form.format(value['least'])} – {form.format(value['most'])})"


def known_bytes(count: int | None, words: Words) -> str:
    """Bytes, where they are known."""
    return words("not_known") if count is None else megabytes(count)


def _dimensions(models: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], words: Words
                ) -> list[tuple[str, list[str]]]:  # fmt: skip
    return [
        (words("size"), [known_bytes(model["disk_bytes"], words) for model in models]),
        (
            words("speed", tokens=recipe["new_tokens"]),
            [timing(model["decode_tokens_per_second"], words) for model in models],
        ),
        (words("quality"), [figure(model["perplexity"], decimals(model["perplexity"]["value"])) for model in models]),
        (words("times_first"), [_times(model["perplexity_times"], words) for model in models]),
        (words("memory"), [known_bytes(model["peak_bytes"], words) for model in models]),
        (words("energy"), [_energy(model["costs"], words) for model in models]),
        (words("deployment"), [_deployment(model, words) for model in models]),
    ]


def _times(times: Mapping[str, float] | None, words: Words) -> str:
    """By how much a model's perplexity is above the first's, and whether that may be chance."""
    if times is None:
        return ""
    inside = times["low"] <= 1 <= times["high"]
    form = decimals(times["high"])
    return words("noise" if inside else "between", low=form.format(times["low"]), high=form.format(times["high"]))


def _energy(costs: Mapping[str, Any] | None, words: Words) -> str:
    if costs is None or costs["joules_per_token"] is None:
        return words("not_known")
    return words(
        "joules", joules=f"{costs['joules_per_token']:.3g}", how=words("measured" if costs["measured"] else "estimated")
    )


def _deployment(model: Mapping[str, Any], words: Words) -> str:
    """The smallest device that its peak of memory fits in with a fifth to spare, and what loads it."""
    loads = words("loads_packed" if model["packed"] else "loads_plain")
    peak = model["peak_bytes"]
    if peak is None:
        return loads
    device = next((gib for gib in _DEVICES if 1.2 * peak <= gib * 2**30), None)
    return f"{words('fits_none') if device is None else words('fits', gib=device)}; {loads}"


def _more(models: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], words: Words) -> list[tuple[str, list[str]]]:
    rows = [
        (words("kl"), [figure(model["kl"], "{:.4f}") for model in models]),
        (words("agreement"), [figure(model["agreement"], "{:.2%}") for model in models]),
        (words("parameters"), [f"{model['parameters']:,}" for model in models]),
        (words("nonzeros"), [f"{model['nonzeros']:,}" for model in models]),
        (words("operations_dense"), [millions(model["operations"]["dense"]) for model in models]),
        (words("operations_nonzero"), [millions(model["operations"]["nonzero"]) for model in models]),
        (words("weights_memory"), [known_bytes(model["memory_bytes"], words) for model in models]),
        (
            words("prefill", tokens=recipe["prompt_tokens"]),
            [timing(model["prefill_tokens_per_second"], words, "{:,.0f}") for model in models],
        ),
        (
            words("latency", tokens=recipe["new_tokens"]),
            [timing(model["latency_seconds"], words, "{:.3f}") for model in models],
        ),
        (words("resident"), [known_bytes(model["resident_bytes"], words) for model in models]),
    ]
    if recipe["memory_limit"]:
        batches = [
            words("not_known") if model["largest_batch"] is None else f"{model['largest_batch']:,}" for model in models
        ]
        rows.append((words("batch", gib=f"{recipe['memory_limit']:g}"), batches))
    for key in ("grams", "price"):
        values = [(model["costs"] or {}).get(key) for model in models]
        if any(value is not None for value in values):
            rows.append((words(key), [words("not_known") if value is None else f"{value:,.3g}" for value in values]))
    return rows


def _tasks(models: Sequence[Mapping[str, Any]], words: Words) -> list[tuple[str, list[str]]]:
    """The papers' table: every task, the mean, and what that is beside the first model's."""
    known = [name for name in models[0]["tasks"] if all(name in model["tasks"] for model in models)]
    rows = [
        (f"{name} ({models[0]['tasks'][name]['metric']})", [figure(model["tasks"][name], "{:.3f}") for model in models])
        for name in known
    ]
    means = [sum(model["tasks"][name]["value"] for name in known) / len(known) for model in models]
    rows.append((words("task_mean"), [f"{mean:.3f}" for mean in means]))
    if means[0]:
        rows.append((words("task_relative"), [f"{mean / means[0]:.1%}" for mean in means]))
    return rows


def _weights(models: Sequence[Mapping[str, Any]], names: Sequence[str], words: Words) -> Picture:
    curves = []
    for name, model in zip(names, models, strict=True):
        counts, limit = model["weights"]["counts"], model["weights"]["limit"]
        width = 2 * limit / len(counts)
        curves.append((name, [-limit + width * (k + 0.5) for k in range(len(counts))], counts))
    return Picture(lines_svg(curves, words("weights_axis"), words("weights_count"), words("weights")), words("weights"))
