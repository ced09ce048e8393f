"""Command-line options made from the Recipe's own fields, so that there is one list of settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .settings import (
    COMPARE,
    COMPARE_SHARED,
    HEAL,
    HEAL_SHARED,
    HELP,
    SHARED,
    SHRINK,
    THRESHOLD,
    THRESHOLD_SHARED,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a stopped run (or start, if there is none).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT once the new one is complete.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="TOML file of settings; options given here win.", dir_okay=False)
]

Model = Annotated[str, typer.Argument(help="Checkpoint folder, .gguf file, pkg:PACKAGE or hub id.")]
Text = Annotated[str, typer.Option("--text", "-t", help="Text file, folder, JSONL, Parquet or dataset id.")]
Seqlen = Annotated[int, typer.Option(help="Tokens of a window.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Dtype = Annotated[str, typer.Option(help="Compute dtype: auto, float32, or the one that weights are stored in.")]
Activations = Annotated[
    Path | None,
    typer.Option("--activations", help="File of `prunus threshold`: small activations count as zero.", dir_okay=False),
]
RemoteCode = Annotated[bool, typer.Option(help="Allow the checkpoint's own Python code to run.")]

OwnNetwork = Annotated[str | None, typer.Option(help="Network, in place of the recipe's.")]
OwnData = Annotated[str | None, typer.Option(help="Data, in place of the recipe's: fashion-mnist, npz:FILE …")]
OwnSeeds = Annotated[str | None, typer.Option(help="Seeds, in place of the recipe's: 0,1,2.")]
OwnDevice = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 … in place of the recipe's.")]
Threads = Annotated[int | None, typer.Option(min=0, help="CPU threads; 0: as many as there are.")]


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's ``recipe`` parameter by ``--recipe`` and one option for each of the Recipe's fields."""

    def build(recipe_file: Path | None, given: dict[str, Any]) -> Any:
        from ..recipe import Recipe

        return Recipe.read(recipe_file, given) if recipe_file else Recipe.of(given)

    return _with_settings(command, HELP, build)


def with_shrink_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a :class:`~prunus.shrink_recipe.ShrinkRecipe`."""

    def build(recipe_file: Path | None, given: dict[str, Any]) -> Any:
        from ..shrink_recipe import ShrinkRecipe

        return ShrinkRecipe.read(recipe_file, given) if recipe_file else ShrinkRecipe.of(given)

    return _with_settings(command, {**SHRINK, **{name: HELP[name] for name in SHARED}}, build)


def with_heal_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a :class:`~prunus.heal_recipe.HealRecipe`."""

    def build(recipe_file: Path | None, given: dict[str, Any]) -> Any:
        from ..heal_recipe import HealRecipe

        return HealRecipe.read(recipe_file, given) if recipe_file else HealRecipe.of(given)

    return _with_settings(command, {**HEAL, **{name: HELP[name] for name in HEAL_SHARED}}, build)


def with_threshold_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a :class:`~prunus.threshold_recipe.ThresholdRecipe`."""

    def build(recipe_file: Path | None, given: dict[str, Any]) -> Any:
        from ..threshold_recipe import ThresholdRecipe

        return ThresholdRecipe.read(recipe_file, given) if recipe_file else ThresholdRecipe.of(given)

    return _with_settings(command, {**THRESHOLD, **{name: HELP[name] for name in THRESHOLD_SHARED}}, build)


def with_compare_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a :class:`~prunus.compare_recipe.CompareRecipe`."""

    def build(recipe_file: Path | None, given: dict[str, Any]) -> Any:
        from ..compare_recipe import CompareRecipe

        return CompareRecipe.read(recipe_file, given) if recipe_file else CompareRecipe.of(given)

    return _with_settings(command, {**COMPARE, **{name: HELP[name] for name in COMPARE_SHARED}}, build)


def _with_settings(command: Callable[..., None], options: dict[str, tuple[str, str, str]],
                   build: Callable[[Path | None, dict[str, Any]], Any]) -> Callable[..., None]:  # fmt: skip
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "recipe"]

    @functools.wraps(command)
    def wrapped(*args: Any, recipe_file: Path | None, **values: Any) -> None:
        given = {name: values.pop(name) for name in options}
        given = {name: value for name, value in given.items() if value not in (None, [], ())}
        command(*args, recipe=build(recipe_file, given), **values)

    added = [inspect.Parameter("recipe_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=RecipeFile)]
    added += [_option(name, options[name]) for name in options]
    merged = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *added]
    wrapped.__signature__ = signature.replace(parameters=merged)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    return wrapped


def stoppable(command: Callable[..., None], advice: str = "") -> Callable[..., None]:
    """The command, with Ctrl-C ending it in one line and exit code 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **values: Any) -> None:
        try:
            command(*args, **values)
        except KeyboardInterrupt:
            typer.echo(f"\nStopped. {advice}".rstrip(), err=True)
            sys.exit(130)

    return wrapped


def _option(name: str, told: tuple[str, str, str]) -> inspect.Parameter:
    flags, panel, text = told
    kinds: dict[str, Any] = {
        "min_expert_tokens": int | None, "samples": int | None, "own_text": float | None, "true_sequential": bool | None,
        "temper": float | None,
        "seqlen": int | None, "seed": int | None, "eval_windows": int | None,
        "batch_tokens": int | None, "memory_budget": float | None, "trust_remote_code": bool | None,
        "skip_unsupported": bool | None, "include": list[str] | None, "exclude": list[str] | None, "set": list[str] | None,
        "tokens": int | None, "epochs": int | None, "batch": int | None, "lr": float | None, "warmup": float | None,
        "weight_decay": float | None, "lora": int | None, "lora_alpha": float | None, "held_out": int | None,
        "step": float | None, "dense_tokens": int | None,
        "windows": int | None, "tasks": list[str] | None, "num_fewshot": int | None, "limit": int | None,
        "prompts": list[str] | None, "new_tokens": int | None,
        "continuation_tokens": int | None, "prompt_tokens": int | None, "temperature": float | None,
        "top_p": float | None, "warmups": int | None, "repeats": int | None, "quality_only": bool | None,
        **dict.fromkeys(("memory_limit", "watts", "grid_intensity", "price"), float | None),
        "shared": int | None, "evaluations": int | None, "patience": int | None, "loss": list[str] | None,
        "stage": list[str] | None, "cut": list[str] | None, "along": list[str] | None,
        **dict.fromkeys(("params", "params_nonembedding", "flops", "memory", "latency"), list[str] | None),
    }  # fmt: skip
    option = typer.Option(*flags.split(","), help=text, rich_help_panel=panel, show_default=False)
    kind = kinds.get(name, str | None)
    annotation = Annotated[kind, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def as_json(value: Any) -> str:
    """A record or dataclass as one JSON object."""
    import json

    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps(plain, indent=1, default=str)


def whole_numbers(text: str | None) -> list[int] | None:
    """Numbers with commas between.

    >>> whole_numbers("0,1, 2")
    [0, 1, 2]
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' are no whole numbers with commas between", param_hint="--seeds") from None
