"""Everything that people get wrong, or that goes wrong under them: one entry a case, the same ones as in docs/errors.md.

A case prepares its fault and gives the words that follow ``prunus prune``; ``{model}`` and ``{out}`` stand for a good
checkpoint and for an output that does not exist yet.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

RECIPE, MODEL, TEXT, NUMERICS, OUTPUT = 3, 4, 5, 6, 7


@dataclass(frozen=True)
class Place:
    """Where a case may make its mess: a folder of its own, and the shared good things."""

    folder: Path
    model: Path
    text: Path

    def copy(self, name: str = "broken") -> Path:
        """A copy of the good checkpoint to break."""
        return Path(shutil.copytree(self.model, self.folder / name))

    def changed(self, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        """A copy whose tensors were changed."""
        folder = self.copy()
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def configured(self, **values: Any) -> Path:
        """A copy whose config says something else; None takes a key out."""
        folder = self.copy()
        config = json.loads((folder / "config.json").read_text())
        config = {key: value for key, value in {**config, **values}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def file(self, name: str, content: str | bytes) -> Path:
        """A file with this content."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


@dataclass(frozen=True)
class Case:
    """``words(place)`` follow ``prunus prune``; ``says`` is a regular expression for what must be told."""

    title: str
    exit_code: int
    says: str
    words: Callable[[Place], list[str]]


def model(broken: Callable[[Place], Path | str]) -> Callable[[Place], list[str]]:
    """The words for another model than the good one."""
    return lambda place: [str(broken(place)), "-o", "{out}"]


def options(*given: str) -> Callable[[Place], list[str]]:
    """The words for the good model with more options."""
    return lambda place: ["{model}", "-o", "{out}", *given]


def calibration(made: Callable[[Place], Path | str], *more: str) -> Callable[[Place], list[str]]:
    """The words for another calibration text."""
    return lambda place: ["{model}", "-o", "{out}", "-c", str(made(place)), *more]


def sharded(place: Place) -> Path:
    """A copy in two shards with an index."""
    folder = place.copy("sharded")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in halves.items():
        save_file({name: tensors[name] for name in inside}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, inside in halves.items() for name in inside}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def without_shard(place: Place) -> Path:
    folder = sharded(place)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


def with_index(change: Callable[[dict[str, str]], Any]) -> Callable[[Place], Path]:
    def broken(place: Place) -> Path:
        folder = sharded(place)
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))
        return folder

    return broken


def corrupt_index(place: Place) -> Path:
    folder = sharded(place)
    (folder / "model.safetensors.index.json").write_text("{")
    return folder


def truncated(place: Place) -> Path:
    folder = place.copy()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def corrupt_header(place: Place) -> Path:
    folder = place.copy()
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:24] = b"not JSON at all!"
    path.write_bytes(bytes(content))
    return folder


def odd_dtype(place: Place) -> Path:
    folder = place.copy()
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(b'"F32"', b'"F99"', 1)
    path.write_bytes(content[:8] + header + content[8 + length :])
    return folder


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def pickled(place: Place) -> Path:
    folder = place.copy()
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap(place.folder / "unpickled")}, folder / "pytorch_model.bin")
    return folder


def without(*names: str) -> Callable[[Place], Path]:
    def broken(place: Place) -> Path:
        folder = place.copy()
        for name in names:
            (folder / name).unlink()
        return folder

    return broken


def remote_code(place: Place) -> Path:
    folder = place.configured(model_type="homemade", auto_map={"AutoConfig": "homemade.Homemade"})
    (folder / "homemade.py").write_text(f"open({str(place.folder / 'executed')!r}, 'w')\n")
    return folder


def first_matrix(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if name.endswith("q_proj.weight"))


def poisoned(value: float) -> Callable[[Place], Path]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first_matrix(tensors)][0, 0] = value

    return lambda place: place.changed(change)


def overflowing(place: Place) -> Path:
    """Every weight is finite; what the first block computes is not."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith(("input_layernorm.weight", "q_proj.weight", "v_proj.weight")):
                tensors[name].fill_(1e30)

    return place.changed(change)


def array(name: str, values: Any, **how: Any) -> Callable[[Place], Path]:
    def made(place: Place) -> Path:
        np.save(place.folder / name, values, **how)
        return place.folder / name

    return made


def folder_with(name: str | None) -> Callable[[Place], Path]:
    def made(place: Place) -> Path:
        folder = place.folder / "texts"
        folder.mkdir()
        if name is not None:
            (folder / name).write_text("nothing to read here")
        return folder

    return made


def recipe(content: str) -> Callable[[Place], list[str]]:
    return lambda place: ["{model}", "-o", "{out}", "-r", str(place.file("recipe.toml", content))]


def existing_output(place: Place) -> list[str]:
    (place.folder / "there").mkdir()
    return ["{model}", "-o", str(place.folder / "there")]


def other_things(place: Place) -> list[str]:
    (place.folder / "home").mkdir()
    place.file("home/diary.txt", "dear diary")
    return ["{model}", "-o", str(place.folder / "home"), "--overwrite"]


def output_under_a_file(place: Place) -> list[str]:
    return ["{model}", "-o", str(place.file("plain", "a file") / "out")]


CASES = [
    Case("model folder that does not exist", MODEL, r"no such folder\. Give a checkpoint folder",
         model(lambda p: "./nowhere")),
    Case("model that is a plain file", MODEL, r"is a file\. Give the folder", model(lambda p: p.file("model", "x"))),
    Case("folder without config.json", MODEL, r"no config\.json there", model(without("config.json"))),
    Case("config.json that is no JSON", MODEL, r"config\.json: ", model(lambda p: _broken_config(p, "{"))),
    Case("unknown model type", MODEL, r"config\.json: .*frobnicator",
         model(lambda p: p.configured(model_type="frobnicator"))),
    Case("encoder given on disk", MODEL, r"builds no causal language model|not in the checkpoint",
         model(lambda p: p.configured(model_type="vit", architectures=["ViTModel"]))),
    Case("hub id without network", MODEL, r"the hub does not give it .*Check the name, the network",
         model(lambda p: "someone/some-model")),
    Case("package that is not installed", MODEL, r"no such package is installed", model(lambda p: "pkg:no_such_package")),
    Case("GGUF file that does not exist", MODEL, r"no such file", model(lambda p: p.folder / "no.gguf")),
    Case("GGUF file that is none", MODEL, r"cannot be read as GGUF", model(lambda p: p.file("bad.gguf", b"GARBAGE" * 9))),
    Case("only pickled weights", MODEL, r"only pickled weights are there \(pytorch_model\.bin\)\. Unpickling runs code",
         model(pickled)),
    Case("no weights at all", MODEL, r"neither model\.safetensors\.index\.json nor model\.safetensors",
         model(without("model.safetensors"))),
    Case("truncated shard", MODEL, r"corrupt safetensors header .*ends at byte|cut off", model(truncated)),
    Case("corrupt header", MODEL, r"corrupt safetensors header", model(corrupt_header)),
    Case("tensor of an unknown dtype", MODEL, r"has dtype F99, which prunus cannot hold", model(odd_dtype)),
    Case("missing shard", MODEL, r"1 of 2 shards are missing \(model-00002", model(without_shard)),
    Case("tensor missing from the index", MODEL, r"1 tensors are missing from it \(lm_head\.weight\)",
         model(with_index(lambda index: index.pop("lm_head.weight")))),
    Case("index naming a tensor that is nowhere", MODEL, r"1 tensors are not where it says \(ghost\)",
         model(with_index(lambda index: index.update(ghost="model-00001-of-00002.safetensors")))),
    Case("index that is no JSON", MODEL, r"corrupt index", model(corrupt_index)),
    Case("tensor missing from the file", MODEL, r"1 of the model's parameters are not in the checkpoint, lm_head\.weight",
         model(lambda p: p.changed(lambda t: t.pop("lm_head.weight")))),
    Case("tensor of another shape than the config's", MODEL, r"on disk, the config asks for .*different models",
         model(lambda p: p.configured(intermediate_size=48))),
    Case("quantised weights", MODEL, r"its weights are quantised \(gptq\)",
         model(lambda p: p.configured(quantization_config={"quant_method": "gptq", "bits": 4}))),
    Case("model with code of its own, without consent", MODEL, r"--trust-remote-code", model(remote_code)),
    Case("NaN in the weights", NUMERICS, r"q_proj\.weight' .* holds 1 NaN or Inf", model(poisoned(float("nan")))),
    Case("Inf in the weights", NUMERICS, r"q_proj\.weight' .* holds 1 NaN or Inf", model(poisoned(float("inf")))),
    Case("NaN in the activations", NUMERICS, r"inputs hold NaN or Inf|hidden states became NaN or Inf", model(overflowing)),
    Case("missing tokenizer", MODEL, r"no tokenizer can be loaded",
         model(without("tokenizer.json", "tokenizer_config.json"))),
    Case("tokenizer of another model", TEXT, r"the model's vocabulary has 100 entries: they do not belong together",
         model(lambda p: _smaller_vocabulary(p))),
    Case("text file that does not exist", TEXT, r"no such file or folder", calibration(lambda p: "missing.txt")),
    Case("empty text", TEXT, r"it holds no text\. Give another", calibration(lambda p: p.file("empty.txt", " \n"))),
    Case("binary text", TEXT, r"no UTF-8 text \(byte 0\)",
         calibration(lambda p: p.file("binary.txt", b"\xff\xfe\x00\x80"))),
    Case("text shorter than a window", TEXT, r"fewer than one window of 64\. Give more text, or a smaller --seqlen",
         calibration(lambda p: p.file("short.txt", "Too short."))),
    Case("JSONL without a text column", TEXT, r"none of the columns a is text",
         calibration(lambda p: p.file("rows.jsonl", '{"a": 1}\n'))),
    Case("JSONL that is none", TEXT, r"cannot be read as json", calibration(lambda p: p.file("bad.jsonl", "{{{\n"))),
    Case("Parquet that is none", TEXT, r"cannot be read as parquet", calibration(lambda p: p.file("bad.parquet", "PAR?"))),
    Case("folder without text", TEXT, r"no \.txt, \.md, \.jsonl, \.json or \.parquet file",
         calibration(folder_with("a.csv"))),
    Case("dataset id without network", TEXT, r"no dataset can be loaded under it",
         calibration(lambda p: "someone/some-text")),
    Case("token windows of fractions", TEXT, r"wanted are token ids, integers \[windows seqlen\]",
         calibration(array("floats.npy", np.ones((2, 64))))),
    Case("token windows of one token", TEXT, r"int64 \[8, 1\]; wanted are token ids, .*seqlen at least 2",
         calibration(array("single.npy", np.ones((8, 1), dtype=np.int64)))),
    Case("token windows outside the vocabulary", TEXT, r"ids from 9999 to 9999, the model's vocabulary has 512",
         calibration(array("large.npy", np.full((2, 64), 9999)))),
    Case("token windows that are pickled", TEXT, r"cannot be read as an array of token ids",
         calibration(array("objects.npy", np.array([{}], dtype=object), allow_pickle=True))),
    Case("window longer than the model's positions", TEXT, r"--seqlen 4096 is longer than the 256 positions",
         options("--seqlen", "4096")),
    Case("evaluation text that does not exist", TEXT, r"no such file or folder", options("--eval-text", "missing.txt")),
    Case("unknown method", RECIPE, r"unknown method 'spargpt' \(did you mean 'sparsegpt'\?\)", options("-m", "spargpt")),
    Case("unknown criterion", RECIPE, r"unknown criterion 'wand' .*did you mean 'wanda'", options("--criterion", "wand")),
    Case("unknown option of a method", RECIPE, r"dampp.*did you mean 'damp'|damp",
         options("--solver", "sparsegpt:dampp=1")),
    Case("option of a wrong type", RECIPE, r"damp.*(lots|number)", options("--solver", "sparsegpt:damp=lots")),
    Case("sparsity above 1", RECIPE, r"sparsity 1\.3 is outside \[0, 1\].*for 1\.3 percent write 1\.3%",
         options("-s", "1.3")),
    Case("sparsity below 0", RECIPE, r"sparsity -0\.1 is outside", options("--sparsity=-0.1")),
    Case("N:M that keeps more than there are", RECIPE, r"'3:2': N:M keeps N of every M weights, so 0 < N < M",
         options("-s", "3:2")),
    Case("sparsity in words", RECIPE, r"'half' is neither a fraction \(0\.5\), a percentage", options("-s", "half")),
    Case("groups that do not divide the columns", RECIPE, r"32 columns do not divide into groups of 7",
         options("-s", "3:7")),
    Case("blocks that do not divide the matrix", RECIPE, r"does not divide into blocks of 5x5",
         options("--pattern", "block:height=5,width=5")),
    Case("glob that matches no layer", RECIPE, r"--include '\*\.nothing' matches none .*they are named like",
         options("--include", "*.nothing")),
    Case("nothing left to prune", RECIPE, r"nothing is left to prune", options("--exclude", "*")),
    Case("--set without a value", RECIPE, r"--set .*'\*\.q_proj'", options("--set", "*.q_proj")),
    Case("device that does not exist", RECIPE, r"device 'warp' cannot be used here", options("--device", "warp")),
    Case("device of another index", RECIPE, r"device 'cuda:9' cannot be used here .*--device cpu always can",
         options("--device", "cuda:9")),
    Case("dtype that cannot hold the weights", RECIPE, r"dtype float16 cannot hold the checkpoint's weights",
         options("--dtype", "float16")),
    Case("no calibration windows", RECIPE, r"samples 0 must be a whole number of at least 1", options("--samples", "0")),
    Case("no memory", RECIPE, r"memory_budget 0(\.0)? must be a positive number", options("--memory-budget", "0")),
    Case("several faults at once", RECIPE, r"The recipe has 2 faults", options("-s", "1.3", "-m", "wands")),
    Case("recipe file that is no TOML", RECIPE, r"recipe\.toml: cannot be read as TOML", recipe("sparsity =")),
    Case("recipe with an unknown key", RECIPE, r"unknown setting 'sparsty' \(did you mean 'sparsity'\?\)",
         recipe("sparsty = 0.5")),
    Case("output that exists", OUTPUT, r"exists already\. Give another -o, or --overwrite", existing_output),
    Case("output under a file", OUTPUT, r"cannot be written \(Not a directory\)", output_under_a_file),
    Case("output onto the model itself", OUTPUT, r"is the model itself\. Give another -o",
         lambda place: ["{model}", "-o", "{model}", "--overwrite"]),
    Case("output onto a folder of other things", OUTPUT, r"is neither a checkpoint nor an empty folder",
         other_things),
]  # fmt: skip


def _broken_config(place: Place, content: str) -> Path:
    folder = place.copy()
    (folder / "config.json").write_text(content)
    return folder


def _smaller_vocabulary(place: Place) -> Path:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:100].contiguous()

    folder = place.changed(cut)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    return folder
