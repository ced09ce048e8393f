"""report: what runs came to, as one page to show to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.disk import write_atomically
from ..checkpoint.replace import check_free_file
from ..core.errors import OutputError, RecipeError
from ..report.assembled import assembled
from ..report.document import check_report
from ..report.html import as_html
from ..report.markdown import as_markdown
from ..report.runs import read_run
from ..report.words import Words

FORMS = {".html": as_html, ".md": as_markdown}


@dataclass(frozen=True)
class Reported:
    """Where the report is, how many runs it shows, and what is wrong with the others."""

    output: str
    shown: int
    problems: list[str]


def report_runs(runs: Sequence[str | Path], output: str | Path, *, lang: str = "en", overwrite: bool = False) -> Reported:
    """Write a report of the records of several runs, folders with a ``prunus.json`` or such files: HTML that loads nothing
    from the network, or Markdown, as ``output`` ends; in ``lang``, ``en`` or ``zh-Hant``.

    A record that is missing, damaged, unfinished or not prunus's is told of in the report, which shows the rest.

    Raises:
        RecipeError: if there is no run, or no such language or ending.
        OutputError: if the file is there already and not to be replaced or no report, or cannot be written.
    """
    place = Path(output).expanduser()
    form = FORMS.get(place.suffix.lower())
    faults = [] if runs else ["no run is given"]
    faults += [] if form else [f"{place}: a report ends in {' or '.join(FORMS)}"]
    if faults or form is None:
        raise RecipeError(faults)
    words = Words(lang)
    check_free_file(place, overwrite, "report", check_report)
    read = [read_run(Path(run).expanduser()) for run in runs]
    try:
        write_atomically(place, form(assembled(read, words)))
    except OSError as error:
        raise OutputError(f"{place}: {error.strerror or error}.") from error
    problems = [run.told(words) for run in read if run.problem]
    return Reported(str(place), len(read) - len(problems), problems)
