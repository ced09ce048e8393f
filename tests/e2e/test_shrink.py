"""Shrinking a model on disk as people do: through the command line, stopped and resumed, with and without text."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console, RenderableType
from safetensors.torch import load_file, save_file

import prunus
from prunus.core.errors import OutputError, RecipeError
from prunus.observe.windows import random_windows
from prunus.report.couplings import couplings_table
from prunus.report.shrunk import shrink_table
from stopping import StopAfter, stopped_and_resumed
from tiny import model_of


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "prunus", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def flags(quick: dict[str, object]) -> list[str]:
    return [word for key, value in quick.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def test_through_the_command_line(checkpoint, quick, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    what = ["--neurons", "0.5", "--heads", "-2", "--layers", "-1", "--width=24"]
    done = run("shrink", checkpoint("llama"), "-o", out, *what, "--json", *flags(quick))
    record = json.loads(done.stdout)
    assert json.loads((out / "prunus.json").read_text()) == record
    assert record["plan"]["sizes"] == {"heads": [4, 2], "neurons": [64, 32], "width": [32, 24]}
    assert record["evaluation"]["dense"] > 1
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"], config["hidden_size"]) == (2, 32, 24)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 2, 8)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == record["plan"]["parameters"][1]
    assert AutoTokenizer.from_pretrained(out)("The economy")["input_ids"]
    assert "prunus shrink" in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert record["disk_bytes"][1] < 0.8 * record["disk_bytes"][0]


def rendered(table: RenderableType) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_table_says_what_was_cut_and_checked(checkpoint, quick, tmp_path) -> None:
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", neurons="75%", **quick)
    told = rendered(shrink_table(result.record))
    for part in ("feed-forward neurons", "parameters", "cut equals masked", "reload check", "mlp.down_proj"):
        assert part in told, part


@pytest.mark.parametrize("what", [{"neurons": 0.5, "kv_groups": 1}, {"width": 24, "target": "dense"},
                                  {"layers": -1, "neurons": 0.5}])  # fmt: skip
def test_stopped_and_resumed_writes_the_same_bytes(what, checkpoint, quick, tmp_path) -> None:
    settings = {**quick, **what}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prunus.shrink(checkpoint("llama"), whole, **settings)
    told = StopAfter(99)
    stopped_and_resumed(checkpoint("llama"), parts, 2, told, prunus.shrink, **settings)
    assert told.replayed >= 1
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        prunus.shrink(checkpoint("llama"), parts, **settings)
    again = prunus.shrink(checkpoint("llama"), parts, resume=True, **settings)
    assert again.output == parts


def test_what_reads_the_units_is_the_least_squares_fit(checkpoint, quick, tokenizer, text_file, tmp_path) -> None:
    """In fp64 from the inputs that the first block's down projection is handed in memory."""
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", neurons=0.5, **quick)
    dense = model_of("llama")
    caught: list[torch.Tensor] = []
    dense.requires_grad_(False)
    layer = dense.model.layers[0].mlp.down_proj
    layer.register_forward_pre_hook(lambda _module, args: caught.append(args[0].flatten(0, 1)))
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    with torch.no_grad():
        dense(input_ids=random_windows(ids, quick["samples"], quick["seqlen"], 0, "text"))
    inputs = torch.cat(caught).double()
    gram = inputs.T @ inputs
    gram += 0.01 * gram.diagonal().mean() * torch.eye(64)
    kept = torch.tensor(result.record["units"]["model.layers.0.mlp.gate_proj.weight dim 0"])
    best = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ layer.weight.double().T).T
    cut = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(cut["model.layers.0.mlp.down_proj.weight"].double(), best, rtol=1e-3, atol=1e-4)
    before = load_file(checkpoint("llama") / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"]
    assert torch.equal(cut["model.layers.0.mlp.gate_proj.weight"], before[kept])
    error = next(site["rel_error"] for site in result.record["sites"] if site["block"] == 0)
    whole = torch.zeros(32, 64, dtype=torch.float64)
    whole[:, kept] = best
    lost = ((layer.weight.double() - whole) @ inputs.T).square().sum() / (layer.weight.double() @ inputs.T).square().sum()
    assert error == pytest.approx(float(lost), rel=1e-3)


@pytest.mark.parametrize("importance", ["obs", "fluctuation", "activation", "taylor", "weight", "random"])
def test_every_importance(importance, checkpoint, quick, tmp_path) -> None:
    what = {"neurons": 0.5, "heads": 0.5, "width": 24, "importance": importance, "width_importance": importance}
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", **what, **quick)
    assert result.record["proof"]["masked"] < 1e-4


def test_without_any_text(checkpoint, tmp_path) -> None:
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", neurons=0.5, importance="weight", solver="keep",
                           eval_windows=0)  # fmt: skip
    assert "calibration" not in result.record["plan"]["settings"]
    assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")


def test_half_precision_stays(checkpoint, quick, tmp_path) -> None:
    prunus.shrink(checkpoint("llama", torch.bfloat16), tmp_path / "out", neurons=0.5, width=24, **quick)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


HALVES = [("llama", {"neurons": 0.5, "heads": 2}), ("gemma2", {"width": 0.5}), ("gpt2", {"neurons": 0.5}),
          ("qwen2", {"width": 24, "kv_groups": 1})]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "what"), HALVES)
def test_half_precision_is_proved_in_full(family, what, dtype, checkpoint, quick, tmp_path) -> None:
    """As on GPUs, where a half-precision checkpoint is computed with as it is stored."""
    for compute in ("float32", str(dtype).removeprefix("torch.")):
        result = prunus.shrink(checkpoint(family, dtype), tmp_path / compute, dtype=compute, **what, **quick)
        assert result.record["proof"]["masked"] < (0.05 if family == "gemma2" else 1e-4)


def test_without_text_the_masked_model_is_run_all_the_same(checkpoint, quick, tmp_path) -> None:
    what = {"importance": "weight", "solver": "keep", "neurons": 0.5, "heads": 2}
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", eval_windows=0, **what)
    assert result.record["proof"]["masked"] < 1e-5


def test_inspect_lists_what_shrinks_together_and_what_stays(checkpoint) -> None:
    told = prunus.inspect(checkpoint("qwen3")).to_json()
    assert told["axes"]["heads"]["size"] == 4
    assert told["axes"]["heads"]["groups"] == 2
    members = told["axes"]["neurons"]["couplings"][0]["members"]
    assert set(members) == {f"model.layers.0.mlp.{name}" for name in (
        "gate_proj.weight dim 0", "up_proj.weight dim 0", "down_proj.weight dim 1")}  # fmt: skip
    assert "model.layers.0.self_attn.q_norm.weight dim 0" in told["left"]
    said = run("inspect", checkpoint("gpt2")).stdout
    assert "stays (" in said
    assert "n_embd" in said or "hidden_size" in said
    short, whole = (rendered(couplings_table(prunus.inspect(checkpoint("llama")), whole)) for whole in (False, True))
    assert "model.layers.2.mlp" in whole
    assert "model.layers.2.mlp" not in short


def test_inspect_tells_numbers_that_can_be(tmp_path) -> None:
    """Of 6 heads 4 can stay, not 5: the config wants a width that they divide. Half of every axis is such a number."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 5}
    model_of("llama", **sizes).save_pretrained(tmp_path / "six")
    told = prunus.inspect(tmp_path / "six").to_json()
    assert told["axes"]["heads"]["sizes"] == [4, 3, 2, 1]
    assert told["layers"]["size"] == 5
    for axis in told["axes"].values():
        config = AutoConfig.from_pretrained(tmp_path / "six").to_dict()
        for number in axis["config"]:
            config[number] = config[number] * axis["half"]["size"] // axis["size"]
        type(AutoConfig.from_pretrained(tmp_path / "six")).from_dict(config)  # raises where it cannot be
    assert all(axis["half"]["size"] < axis["size"] for axis in told["axes"].values())


def test_faults_are_told_together(checkpoint, tmp_path, quick) -> None:
    with pytest.raises(RecipeError) as caught:
        prunus.shrink(checkpoint("llama"), tmp_path / "out", neurons="half", importance="best", colour="red", **quick)
    assert len(caught.value.faults) == 3
    with pytest.raises(RecipeError, match="nothing is to be cut"):
        prunus.shrink(checkpoint("llama"), tmp_path / "out", **quick)
    assert not list(tmp_path.iterdir())


def test_that_the_repair_fills_zeros_of_a_pruned_model_is_said(checkpoint, quick, tmp_path) -> None:
    half = prunus.prune(checkpoint("llama"), tmp_path / "half", sparsity=0.5, method="magnitude", **quick).output
    repaired = prunus.shrink(half, tmp_path / "repaired", neurons=0.5, **quick)
    kept = prunus.shrink(half, tmp_path / "kept", neurons=0.5, solver="keep", **quick)
    assert "the repair fills zeros" in rendered(shrink_table(repaired.record))
    assert "the repair fills zeros" not in rendered(shrink_table(kept.record))
    filled, held = (load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"] for folder in
                    (tmp_path / "repaired", tmp_path / "kept"))  # fmt: skip
    assert float((filled == 0).float().mean()) < 0.05 < float((held == 0).float().mean())


def test_nan_weights_are_refused_before_anything_is_written(checkpoint, quick, tmp_path) -> None:
    source = tmp_path / "broken"
    model = model_of("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(source)
    for path in Path(checkpoint("llama")).glob("tok*"):
        (source / path.name).write_bytes(path.read_bytes())
    with pytest.raises(prunus.PrunusError, match="1 NaN or Inf"):
        prunus.shrink(source, tmp_path / "out", neurons=0.5, **quick)
    assert not (tmp_path / "out").exists()


def test_what_the_model_has_no_place_for_is_told_or_copied(checkpoint, quick, text_file, tmp_path) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({**load_file(file), "mtp.weight": torch.ones(4, 4)}, file, metadata={"format": "pt"})
    cut = run("shrink", tmp_path / "model", "-o", tmp_path / "cut", "--neurons=0.5", *flags(quick))
    few = ["--tokens=256", "--seqlen=32", "--held-out=2", "--eval-windows=0", f"--text={text_file}"]
    healed = run("recover", tmp_path / "model", "-o", tmp_path / "healed", *few)
    assert "stays (the model has no place for it: not written): mtp.weight" in " ".join(cut.stdout.split())
    assert "mtp.weight" not in load_file(tmp_path / "cut" / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "healed" / "model.safetensors")["mtp.weight"], torch.ones(4, 4)), "as it was"
    assert healed.stdout


def test_a_family_is_not_written_into_its_parent(checkpoint, quick, tmp_path) -> None:
    with pytest.raises(RecipeError, match="two of the targets are the same"):
        prunus.shrink_family(checkpoint("llama"), tmp_path / "out", params=["0.8x", "80%"], **quick)
    with pytest.raises(OutputError, match="lies in a checkpoint"):
        prunus.shrink_family(checkpoint("llama"), checkpoint("llama"), params=["0.9x", "0.8x"], **quick)


def test_a_family_from_one_parent(checkpoint, quick, tmp_path) -> None:
    out = tmp_path / "out"
    what = ["--params=0.8x", "--params", "0.6x", "--along=neurons", "--along=width", "--json"]
    members = json.loads(run("shrink", checkpoint("llama"), "-o", out, *what, *flags(quick)).stdout)["family"]
    assert sorted(path.name for path in out.iterdir()) == ["params-0.6x", "params-0.8x"]
    shares = [record["plan"]["parameters"][1] / record["plan"]["parameters"][0] for record in members]
    assert 0.6 < shares[0] <= 0.8
    assert shares[1] <= 0.6
    assert members[0]["plan"]["target"]["tried"] == members[1]["plan"]["target"]["tried"]
    again = prunus.shrink_family(checkpoint("llama"), out, params=["0.8x", "0.6x"], along=["neurons", "width"], resume=True,
                                 **quick)  # fmt: skip
    assert "shapes tried for params 0.6x" in rendered(shrink_table(again[1].record))
    alone = prunus.shrink(checkpoint("llama"), tmp_path / "one", params="0.6x", along=("neurons", "width"), **quick)
    assert alone.sizes
    assert len(alone.record["plan"]["target"]["finalists"]) >= 1


class Tasks(StopAfter):
    """What was begun, and a Ctrl-C when ``stop`` begins."""

    def __init__(self, stop: str = "") -> None:
        super().__init__(99)
        self.begun: list[str] = []
        self.stop_at = stop

    def start(self, task: str, total: int) -> None:
        super().start(task, total)
        self.begun.append(task)
        if task == self.stop_at:
            raise KeyboardInterrupt


def test_the_room_of_a_whole_family_is_asked_for_before_the_first_is_cut(checkpoint, quick, tmp_path, monkeypatch) -> None:
    settings = {**quick, "params": ["0.9x", "0.8x"], "along": ["neurons"]}
    told, whole = Tasks(), sum(path.stat().st_size for path in Path(checkpoint("llama")).glob("*.safetensors"))
    with monkeypatch.context() as patched:
        patched.setattr("prunus.checkpoint.writer.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, whole))
        with pytest.raises(OutputError, match=r"GB are free"):
            prunus.shrink_family(checkpoint("llama"), tmp_path / "out", progress=told, **settings)
    assert "Trying the best shapes" in told.begun
    assert "Cutting" not in told.begun
    prunus.shrink_family(checkpoint("llama"), tmp_path / "out", progress=told, resume=True, **settings)
    assert told.begun.count("Trying the best shapes") == 1, "what was searched is kept"


def test_every_part_that_takes_long_is_told(checkpoint, quick, tmp_path) -> None:
    told = Tasks()
    what = {"importance": "weight", "solver": "keep", "eval_windows": 0, "neurons": 0.5}  # no text is read
    prunus.shrink(checkpoint("llama"), tmp_path / "out", progress=told, **what)
    proving = ["Running the masked model", "Reading it back", "Running what was written", "Loading it whole"]
    assert told.begun[told.begun.index("Cutting") + 1 :][: len(proving)] == proving


def test_what_was_searched_is_kept_from_before_the_first_cut_on(checkpoint, quick, tmp_path) -> None:
    """Of every member of a family; and what is asked otherwise then is refused before anything is surveyed."""
    settings = {**quick, "params": ["0.8x", "0.7x"], "along": ["neurons", "heads"], "layers": 2, "depth": "influence"}
    whole = prunus.shrink_family(checkpoint("llama"), tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        prunus.shrink_family(checkpoint("llama"), tmp_path / "parts", progress=Tasks("Cutting"), **settings)
    other = {"layers": "given.layers: 2 then, 1 now", "min_expert_tokens": "min_expert_tokens: 64 then, 1 now"}
    for name, message in other.items():
        with pytest.raises(OutputError, match=message):
            prunus.shrink_family(checkpoint("llama"), tmp_path / "parts", resume=True, **{**settings, name: 1})
    with pytest.raises(OutputError, match=r"is for params 0.8x, this one for given sizes"):
        prunus.shrink(checkpoint("llama"), tmp_path / "parts" / "params-0.8x", resume=True, neurons=0.5, **quick)
    told = Tasks()
    parts = prunus.shrink_family(checkpoint("llama"), tmp_path / "parts", resume=True, progress=told, **settings)
    assert not any(task.startswith("Trying") for task in told.begun)
    for one, other in zip(whole, parts, strict=True):
        assert (one.output / "model.safetensors").read_bytes() == (other.output / "model.safetensors").read_bytes()


def test_nothing_is_taken_over_from_what_is_to_be_replaced(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "params": "0.8x", "along": ["width", "neurons"]}
    prunus.shrink(checkpoint("llama"), tmp_path / "out", **settings)
    told = Tasks()
    prunus.shrink(checkpoint("llama"), tmp_path / "out", resume=True, overwrite=True, progress=told,
                  **{**settings, "width_importance": "random"})  # fmt: skip
    assert any(task.startswith("Trying") for task in told.begun)


def test_a_search_is_not_done_again_when_resumed(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "params": "0.7x", "along": ["neurons", "width", "layers"]}
    prunus.shrink(checkpoint("llama"), tmp_path / "whole", **settings)
    told = Tasks()
    stopped_and_resumed(checkpoint("llama"), tmp_path / "parts", 1, told, prunus.shrink, **settings)
    assert not any(task.startswith("Trying") for task in told.begun)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    records = [json.loads((tmp_path / name / "prunus.json").read_text()) for name in ("whole", "parts")]
    assert records[0]["plan"]["target"] == records[1]["plan"]["target"]


@pytest.mark.parametrize("solver", ["keep:bias=true", "lstsq:damp=0"])
def test_biases_make_up_for_the_mean_of_what_goes(solver, checkpoint, quick, tokenizer, text_file, tmp_path) -> None:
    """In fp64 on what the first block's second layer is handed: weights kept (FLAP), or least squares with a free bias."""
    what = {"neurons": 96, "importance": "fluctuation", "solver": solver, **quick, "samples": 32}
    result = prunus.shrink(checkpoint("gpt2"), tmp_path / "out", **what)
    dense = model_of("gpt2").eval()
    layer = dense.transformer.h[0].mlp.c_proj
    caught: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda _module, args: caught.append(args[0].flatten(0, 1)))
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    with torch.no_grad():
        dense(input_ids=random_windows(ids, 32, quick["seqlen"], 0, "text"))
    inputs = torch.cat(caught).double()
    kept = torch.tensor(result.record["units"]["transformer.h.0.mlp.c_fc.weight dim 1"])
    variance = inputs.var(0, correction=0) * layer.weight.detach().double().square().sum(1)
    assert set(kept.tolist()) == set(variance.topk(96).indices.tolist())
    targets = (inputs @ layer.weight.double() + layer.bias.double()).detach()
    cut = load_file(tmp_path / "out" / "model.safetensors")
    names = [next(name for name in cut if name.endswith(f"h.0.mlp.c_proj.{part}")) for part in ("weight", "bias")]
    weight, bias = (cut[name].double() for name in names)
    if solver.startswith("keep"):
        assert torch.equal(weight, layer.weight.detach().double()[kept])
        torch.testing.assert_close(bias, (targets - inputs[:, kept] @ weight).mean(0), rtol=1e-3, atol=1e-5)
    else:
        design = torch.cat([inputs[:, kept], torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
        best = torch.linalg.lstsq(design, targets).solution
        lost = (inputs[:, kept] @ weight + bias - targets).square().sum()
        assert float(lost) == pytest.approx(float((design @ best - targets).square().sum()), rel=1e-2)


def test_biases_that_were_changed_are_replayed(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "neurons": 0.5, "width": 16}
    prunus.shrink(checkpoint("gpt2"), tmp_path / "whole", **settings)
    stopped_and_resumed(checkpoint("gpt2"), tmp_path / "parts", 2, StopAfter(99), prunus.shrink, **settings)
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()
