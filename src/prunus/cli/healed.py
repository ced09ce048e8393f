"""What ``distill`` and ``recover`` tell at their end."""

from __future__ import annotations

import typer
from rich.console import Console

from ..report.healed import healed_table
from ..train.ranks import is_first
from ..verbs.healing import HealResult
from .options import as_json


def tell(result: HealResult, json: bool) -> None:
    """The record as JSON, or a table; of several processes the first tells."""
    if is_first():
        if json:
            typer.echo(as_json(result.record))
        else:
            Console().print(healed_table(result.record))
