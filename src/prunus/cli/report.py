"""prunus report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, Overwrite, as_json


def command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Outputs of prunus, or their prunus.json files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .html, or .md for a model card.")],
    lang: Annotated[str, typer.Option(help="en or zh-Hant.")] = "en",
    overwrite: Overwrite = False,
    json: JsonFlag = False,
) -> None:
    """One page of what runs came to: before and after, curves, maps of layers, what models say, how to reproduce it."""
    from ..verbs.report import report_runs

    found = report_runs(runs, output, lang=lang, overwrite=overwrite)
    if json:
        typer.echo(as_json(found))
        return
    for problem in found.problems:
        typer.echo(problem, err=True)
    typer.echo(f"{found.output}: {found.shown} of {len(runs)} runs")
