"""The ``prunus`` command: its verbs, and what an error looks like."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from rich.console import Console

from . import (
    bench,
    compare,
    distill,
    evaluate,
    export,
    generate,
    inspect,
    lottery,
    methods,
    pack,
    plan,
    prune,
    recover,
    report,
    shrink,
    threshold,
    train,
    unpack,
)
from .options import stoppable

app = typer.Typer(
    name="prunus", no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Makes trained neural networks smaller, with little loss, and proves what it did.",
    epilog="Exit codes: 0 done, 1 another error, 2 usage, 3 recipe, 4 model, 5 text or data, 6 numerics, 7 output, "
    "8 proof failed, 9 memory, 130 stopped",
)  # fmt: skip
app.command("prune")(stoppable(prune.command, "Nothing is lost: repeat the command with --resume to go on."))
app.command("shrink")(stoppable(shrink.command, "Nothing is lost: repeat the command with --resume to go on."))
app.command("distill")(stoppable(distill.command, "Nothing is lost: repeat the command with --resume to go on."))
app.command("recover")(stoppable(recover.command, "Nothing is lost: repeat the command with --resume to go on."))
app.command("lottery")(
    stoppable(lottery.command, "Nothing is lost but an epoch: repeat the command with --resume to go on.")
)
app.command("train")(stoppable(train.command, "Nothing is lost but an epoch: repeat the command with --resume to go on."))
app.command("inspect")(stoppable(inspect.command))
app.command("plan")(stoppable(plan.command))
app.command("eval")(stoppable(evaluate.command))
app.command("compare")(stoppable(compare.command))
app.command("report")(stoppable(report.command))
app.command("export")(stoppable(export.command))
app.command("pack")(stoppable(pack.command))
app.command("unpack")(stoppable(unpack.command))
app.command("threshold")(stoppable(threshold.command))
app.command("generate")(stoppable(generate.command))
app.command("bench")(stoppable(bench.command))
app.command("methods")(methods.command)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; faults a person can mend are one screen, not a traceback."""
    from ..core.errors import PrunusError

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    show = warnings.showwarning

    def noted(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if category is UserWarning:  # a word to the person, not to who writes code
            errors.print("[yellow]Note:[/] ", end="")
            errors.print(str(message), markup=False)
        else:
            show(message, category, *rest)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = noted  # type: ignore[assignment]
            app()
    except PrunusError as error:
        errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        errors.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
