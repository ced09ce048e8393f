"""Bad input through the command line: one screen that names the fix, the exit code, and nothing left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bad_inputs import CASES, Case, Place
from prunus.cli.app import main

COMMON = ["--samples", "4", "--seqlen", "64", "--eval-windows", "1"]
DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


def told(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error of ``prunus prune WORDS``."""
    monkeypatch.setattr(sys, "argv", ["prunus", "prune", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), capsys.readouterr().err


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title.replace(" ", "-"))
def test_bad_input(case: Case, checkpoint, text_file, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path / "place", checkpoint("llama"), text_file)
    place.folder.mkdir()
    filled = {"{model}": str(place.model), "{out}": str(place.folder / "out")}
    words = [filled.get(word, word) for word in case.words(place)]
    given = {"-c": ["-c", str(text_file)], "--eval-text": ["--eval-text", str(text_file)]}
    words += [word for flag, pair in given.items() if flag not in words for word in pair]
    model_before, before = everything_in(place.model), everything_in(tmp_path)
    code, err = told([*words[:1], *COMMON, *words[1:]], capsys, monkeypatch)
    flat = " ".join(err.split())
    assert re.search(case.says, flat), err
    assert code == case.exit_code, err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 20
    assert everything_in(tmp_path) == before, "something was written, or lost"
    assert everything_in(place.model) == model_before


def test_every_case_is_in_the_docs_as_it_is_told() -> None:
    rows = re.findall(r"^\| (.+?) \| (.*?) \| (\d+) \|$", DOCS.read_text(), flags=re.M)
    listed = {title: (says.replace("`", ""), int(code)) for title, says, code in rows}
    for case in CASES:
        says, code = listed[case.title]
        assert code == case.exit_code
        assert re.search(case.says, says), case.title
    assert len(listed) >= 40
