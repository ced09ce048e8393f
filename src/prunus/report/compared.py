"""The table of a comparison: models side by side, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .names import ABREAST, column_names

Cell = Callable[[Any], str]


def compare_table(found: Any) -> RenderableType:
    """Figures with their intervals, a column a model, then continuations."""
    models, recipe = found.models, found.recipe
    lines: list[RenderableType] = []
    others = [model.model for model in models[1:]] if len(models) <= ABREAST else [f"{len(models) - 1} others"]
    title = " against ".join([models[0].model, *others])
    for few in _together(len(models)):
        table = Table(title=None if few.start else escape(title), title_justify="left")
        table.add_column(escape(f"{found.tokens} tokens of {recipe.text}, windows of {recipe.run.seqlen}"))
        for name in _names(found)[few]:
            table.add_column(escape(name), justify="right", overflow="fold")
        for label, cell in _rows(found):
            cells = [cell(model) for model in models[few]]
            if any(cells):
                table.add_row(escape(label), *map(escape, cells))
        lines.append(table)
    if any(model.perplexity.interval for model in models):
        lines.append(Text("±, and from … to: intervals of 95%, by windows, and of tasks by questions.", style="dim"))
    lines += [Text(line) for line in differences(found)]
    lines += [Text(f"energy: {source}", style="dim") for source in _energy_sources(found)]
    lines += [Text(f"not measured: {one}", style="yellow") for one in found.not_measured]
    lines += _said(found)
    if len({model.disk_bytes for model in models}) == 1 < len(models) and found.activations is None:
        lines.append(
            Text("Zeros alone save no bytes and no time: that takes a packed format or a sparse kernel.", style="dim")
        )
    return Group(*lines)


def differences(found: Any) -> list[str]:
    """What of the difference in quality is more than noise, a sentence a model."""
    told = []
    for name, model in list(zip(_names(found), found.models, strict=True))[1:]:
        times = model.perplexity_times
        if times is None:
            continue
        share = f"{times.low:.3f} to {times.high:.3f} times that of the first"
        noise = 1.0 in times and times.low < times.high
        told.append(f"{name}: perplexity {share}{', a difference inside the noise' if noise else ''}")
        for task, figure in (model.tasks or {}).items():
            if figure.change is not None:
                inside = ", inside the noise" if 0.0 in figure.change else ""
                change = f"{100 * figure.change.low:+.1f} to {100 * figure.change.high:+.1f} points"
                told.append(f"{name}: {task} {change}{inside}")
    return told


def _together(count: int) -> list[slice]:
    """Which models share a table."""
    return [slice(start, start + ABREAST) for start in range(0, count, ABREAST)]


def _names(found: Any) -> list[str]:
    return column_names([str(model.model) for model in found.models], "dense", "pruned")


def _rows(found: Any) -> list[tuple[str, Cell]]:
    """The rows of the table: a label, and what a model has in it."""
    recipe = found.recipe
    rows: list[tuple[str, Cell]] = [
        ("perplexity", lambda model: _figure(model.perplexity, decimals(model.perplexity.value))),
        ("KL to the first, nats a token", lambda model: _figure(model.kl, "{:.4f}")),
        ("top-1 agreement", lambda model: _figure(model.agreement, "{:.2%}")),
    ]
    tasks = {name: figure.metric for model in found.models for name, figure in (model.tasks or {}).items()}
    for name, metric in tasks.items():
        rows.append((f"{name} ({metric})", lambda model, name=name: _task((model.tasks or {}).get(name))))  # type: ignore[misc]
    if len(tasks) > 1:
        rows.append(("mean of the tasks", lambda model: _mean_task(found.models[0], model)))
    rows += [
        ("size on disk", lambda model: megabytes(model.disk_bytes)),
        ("weights, unpacked", lambda model: megabytes(model.memory_bytes)),
        ("parameters", lambda model: f"{model.parameters:,}"),
        ("non-zero", lambda model: f"{model.nonzeros:,}"),
        ("operations a token", lambda model: millions(model.operations.dense)),
        ("with non-zeros alone", lambda model: millions(model.operations.nonzero)),
        (f"prompt of {recipe.prompt_tokens}, tokens/s", lambda model: _timing(model.prefill_tokens_per_second)),
        (f"{recipe.new_tokens} new tokens, tokens/s", lambda model: _timing(model.decode_tokens_per_second)),
        ("memory of a process, loaded", lambda model: megabytes(model.resident_bytes)),
        ("memory of a process, peak", lambda model: megabytes(model.peak_bytes)),
        (
            f"largest batch in {recipe.memory_limit:g} GiB" if recipe.memory_limit else "",
            lambda model: "" if model.largest_batch is None else f"{model.largest_batch:,}",
        ),
        ("J a new token", lambda model: _cost(model, "joules_per_token", "{:.3g}")),
        ("g CO2e a million new tokens", lambda model: _cost(model, "grams", "{:,.3g}")),
        ("price of a million new tokens", lambda model: _cost(model, "price", "{:,.3g}")),
    ]
    used = found.activations
    if used is not None:
        last = found.models[-1]
        rows += [
            ("activations that count as zero", lambda model: f"{used.sparsity:.2%}" if model is last else ""),
            (
                "weight bytes not read a token",
                lambda model: (
                    f"{megabytes(used.bytes_not_read)} of {used.weight_bytes / 1e6:,.1f}" if model is last else ""
                ),
            ),
        ]
    return rows


def _said(found: Any) -> list[RenderableType]:
    """Continuations side by side."""
    if found.models[0].continuations is None:
        return []
    recipe = found.recipe
    how = f"at temperature {recipe.temperature:g}, top-p {recipe.top_p:g}" if recipe.temperature else "greedy"
    tables: list[RenderableType] = []
    for few in _together(len(found.models)):
        said = Table(title=None if few.start else f"continuations, {how}", title_justify="left", show_lines=True)
        for name in ("prompt", *_names(found)[few]):
            said.add_column(escape(name), ratio=1 if name == "prompt" else 2)
        for prompt, *texts in zip(recipe.prompts, *(model.continuations for model in found.models[few]), strict=True):
            said.add_row(escape(prompt), *map(escape, texts))
        tables.append(said)
    return tables


def _figure(figure: Any, form: str) -> str:
    """A figure, and half the width of its interval, or its ends where it lies askew in it.

    >>> from types import SimpleNamespace as N
    >>> _figure(N(value=20.0, interval=N(low=19.0, high=21.04)), "{:.2f}"), _figure(N(value=20.0, interval=None), "{:.1f}")
    ('20.00 ± 1.02', '20.0')
    """
    value, interval = form.format(figure.value), figure.interval
    if interval is None or interval.high == interval.low:
        return value
    up, down = interval.high - figure.value, figure.value - interval.low
    if down > 0 and 0.8 < up / down < 1.25:
        return f"{value} ± {form.format((interval.high - interval.low) / 2)}"
    return f"{value} ({form.format(interval.low)} … {form.format(interval.high)})"


def _timing(timing: Any) -> str:
    """The median of a timing, and the range of its repeats."""
    if timing is None:
        return ""
    digits = 0 if timing.median >= 100 else 1
    return f"{timing.median:.{digits}f} ({timing.least:.{digits}f} … {timing.most:.{digits}f})"


def _task(figure: Any) -> str:
    if figure is None:
        return ""
    return _figure(figure, "{:.1%}" if 0 <= figure.value <= 1 else "{:.3f}")


def _mean_task(first: Any, model: Any) -> str:
    """The mean of the tasks, and what share of the first model's it is."""
    means = [sum(one.value for one in each.tasks.values()) / len(each.tasks) for each in (first, model)]
    return f"{means[1]:.1%}" + (f" ({means[1] / means[0]:.1%} of the first)" if model is not first and means[0] else "")


def _energy_sources(found: Any) -> set[str]:
    """From what energy is known: a meter, or an estimate's figures."""
    return {model.costs.source for model in found.models if model.costs and model.costs.source}


def _cost(model: Any, name: str, form: str) -> str:
    value = getattr(model.costs, name, None)
    return "" if value is None else form.format(value)


def decimals(value: float) -> str:
    """How a perplexity is written: with none where it is in the thousands."""
    return "{:.3f}" if value < 1000 else "{:,.0f}"


def millions(count: float) -> str:
    """A count in words."""
    return f"{count / 1e6:,.1f} M"


def megabytes(count: int | None) -> str:
    """Bytes in words."""
    return "" if count is None else f"{count / 1e6:,.1f} MB"
