"""Pruning through the command line, as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prunus


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "prunus", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def flags(quick: dict[str, object]) -> list[str]:
    return [word for key, value in quick.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize(("family", "sparsity"), [
    ("llama", "0.5"), pytest.param("gpt2", "2:4", marks=pytest.mark.slow),
    pytest.param("mixtral", "4:8", marks=pytest.mark.slow),
])  # fmt: skip
def test_prune_json_tells_all_and_the_output_loads(family, sparsity, checkpoint, quick, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    done = run("prune", checkpoint(family), "-o", out, "--sparsity", sparsity, "--json", *flags(quick))
    record = json.loads(done.stdout)
    assert record["output"] == str(out)
    assert record["method"] == "balanced"
    rounded = 14 / 13824 if family == "llama" else 5e-7  # without N:M, a layer's number of zeros is rounded down
    assert record["sparsity"] == pytest.approx(0.5, abs=rounded)
    assert 0 < record["sparsity_total"] < 0.5
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 1e8
    assert {"name", "shape", "sparsity", "rel_error"} <= set(record["sites"][0])
    assert record["evaluation"]["dense"] > 1
    assert json.loads((out / "prunus.json").read_text()) == record
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    dense = AutoModelForCausalLM.from_pretrained(checkpoint(family)).state_dict()
    pruned = {site["name"]: site["sparsity"] for site in record["sites"]}
    for name, tensor in model.state_dict().items():
        share = pruned.pop(name, None) or pruned.pop(name.removesuffix(".weight"), None)
        zeros = float((tensor == 0).float().mean())
        assert zeros == pytest.approx(share, abs=1e-6) if share else torch.equal(tensor, dense[name])
        assert share in (None, 0.5) or family == "llama"
    assert not pruned
    assert AutoTokenizer.from_pretrained(out)("The economy")["input_ids"]
    config = json.loads((out / "config.json").read_text())
    assert "sparsity_config" not in config
    assert config == json.loads((checkpoint(family) / "config.json").read_text())
    assert "perplexity" in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_dtype_of_the_source_is_kept(checkpoint, quick, tmp_path) -> None:
    from prunus.checkpoint.source import Checkpoint

    source = checkpoint("llama", torch.bfloat16)
    prunus.prune(source, tmp_path / "out", method="wanda", **quick)
    before, after = Checkpoint.open(source), Checkpoint.open(tmp_path / "out")
    for name in before.names:
        one, two = before.read(name), after.read(name)
        assert one.dtype == two.dtype == torch.bfloat16
        assert torch.equal(two[two != 0], one[two != 0])


def test_shards_and_index_are_mirrored(checkpoint, quick, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint("mixtral"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="80KB")
    for path in checkpoint("mixtral").glob("tok*"):
        (tmp_path / "sharded" / path.name).write_bytes(path.read_bytes())
    prunus.prune(tmp_path / "sharded", tmp_path / "out", **quick)
    shards = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    index = "model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (tmp_path / "sharded" / index).read_bytes()
    prunus.prune(checkpoint("mixtral"), tmp_path / "single", **quick)
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    two = AutoModelForCausalLM.from_pretrained(tmp_path / "single").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_names_without_the_models_prefix_are_kept(checkpoint, quick, tmp_path) -> None:
    """The hub's GPT-2 was saved from the base model: its tensors lack ``transformer.``, and buffers are among them."""
    from safetensors.torch import load_file, save_file

    source = tmp_path / "base"
    source.mkdir()
    for path in checkpoint("gpt2").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(source / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 8, 8))
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    prunus.prune(source, tmp_path / "out", method="wanda", **quick)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(tensors)
    assert float((written["h.1.mlp.c_fc.weight"] == 0).float().mean()) == pytest.approx(0.5)
    assert torch.equal(written["h.0.attn.bias"], tensors["h.0.attn.bias"])


@pytest.mark.slow
def test_eval_and_compare_speak_json(checkpoint, quick, text_file, tmp_path) -> None:
    run("prune", checkpoint("llama"), "-o", tmp_path / "out", *flags(quick))
    done = run("eval", tmp_path / "out", "--text", text_file, "--seqlen", 64, "--windows", 3, "--json")
    found = json.loads(done.stdout)
    assert found["tokens"] == 192
    assert found["seqlen"] == 64
    done = run(
        "compare", checkpoint("llama"), tmp_path / "out", "--text", text_file, "--seqlen", 64, "--windows", 3, "--json"
    )
    both = json.loads(done.stdout)
    dense, pruned = both["models"]
    assert pruned["perplexity"]["value"] == pytest.approx(found["perplexity"], rel=1e-6)
    assert pruned["kl"]["value"] > 0
    assert 0 < pruned["agreement"]["value"] < 1
    assert dense["disk_bytes"] == pruned["disk_bytes"] == (tmp_path / "out/model.safetensors").stat().st_size
    assert pruned["nonzeros"] < dense["nonzeros"] <= dense["parameters"]


def test_plan_writes_nothing_and_tells_everything(checkpoint, quick, tmp_path) -> None:
    arguments = ["plan", checkpoint("mixtral"), "--set", "*.o_proj=2:4", "--exclude", "*.k_proj", *flags(quick)]
    plan = json.loads(run(*arguments, "--json").stdout)
    steps = {step["name"]: step for step in plan["steps"]}
    assert steps["model.layers.1.self_attn.o_proj"]["pattern"] == {"name": "nm", "n": 2, "m": 4}
    assert plan["untouched"]["model.layers.1.self_attn.k_proj"] == "--exclude"
    assert "router" in plan["untouched"]["model.layers.1.mlp.gate"]
    assert plan["estimate"]["memory_bytes"] > 0
    assert plan["settings"]["calibration"]["tokens"] == 512
    assert "self_attn.q_proj" in run(*arguments).stdout
    assert not list(tmp_path.iterdir())


def test_methods_lists_everything() -> None:
    names = {(choice["axis"], choice["name"]) for choice in json.loads(run("methods", "--json").stdout)}
    assert {
        ("preset", "wanda"),
        ("criterion", "obs"),
        ("pattern", "nm"),
        ("allocator", "global"),
        ("solver", "keep"),
    } <= names


def test_methods_explains_those_that_are_named() -> None:
    told = run("methods", "lstsq", "match").stdout
    assert "pcg or exact" in told
    assert "Passes over the calibration windows." in told
    assert "sparsegpt" not in told
    (choice,) = json.loads(run("methods", "evolve", "--json").stdout)
    assert choice["options"]["offspring"] == {"kind": "int", "default": 12, "meaning": "Children of a generation."}
    with pytest.raises(prunus.PrunusError, match=r"no method is called 'adm' \(did you mean 'admm'\?\)"):
        prunus.methods("adm")


@pytest.mark.slow
def test_a_recipe_file_is_the_flags(checkpoint, quick, tmp_path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'method = "wanda"\nsparsity = "50%"\n[set]\n"*.down_proj" = "2:4"\n[criterion]\nname = "wanda"\npower = 0.5\n'
    )
    prunus.prune(checkpoint("llama"), tmp_path / "one", prunus.Recipe.read(recipe, quick))
    words = ["--method", "wanda", "--set", "*.down_proj=2:4", "--criterion", "wanda:power=0.5"]
    run("prune", checkpoint("llama"), "-o", tmp_path / "two", *words, *flags(quick))
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    run("prune", checkpoint("llama"), "-o", tmp_path / "three", "--recipe", recipe, "--sparsity", "0.25", *flags(quick))
    record = json.loads((tmp_path / "three/prunus.json").read_text())
    assert {round(site["sparsity"], 2) for site in record["sites"]} == {0.25, 0.5}


def test_global_magnitude_is_torchs_global_l1(checkpoint, tmp_path) -> None:
    """One threshold over all layers, as ``torch.nn.utils.prune.global_unstructured`` finds it."""
    from torch.nn.utils import prune as torch_prune
    from transformers import AutoModelForCausalLM

    prunus.prune(
        checkpoint("llama"), tmp_path / "out", method="magnitude", allocation="global", sparsity=0.5, eval_windows=0
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    linears = [(m, "weight") for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    torch_prune.global_unstructured(linears, torch_prune.L1Unstructured, amount=0.5)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = dict(model.named_modules())
    for name, module in ours.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(module.weight, theirs[f"model.layers.{name}"].weight), name


def test_global_wanda_looks_at_the_inputs_of_the_whole_model(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", method="wanda", allocation="global", **quick)
    sparsities = {site["sparsity"] for site in result.sites}
    assert len(sparsities) > 5
    assert result.sparsity == pytest.approx(0.5, abs=0.02)  # every row of 32 rounds down


def test_sites_named_for_it_are_pruned_head_router_and_threshold(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(
        checkpoint("llama"), tmp_path / "out", include=["*.v_proj", "lm_head"], set=["*.v_proj=threshold:0.1"],
        method="magnitude", eval_windows=0,
    )  # fmt: skip
    from transformers import AutoModelForCausalLM

    dense = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).state_dict()
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    name = "model.layers.1.self_attn.v_proj.weight"
    assert torch.equal(pruned[name] == 0, dense[name].abs() < 0.1)
    assert float((pruned["lm_head.weight"] == 0).float().mean()) == pytest.approx(0.5)
    assert {site["block"] for site in result.sites} == {0, 1, 2, None}


def test_magnitude_takes_no_text_but_measures_on_text_that_is_given(checkpoint, quick, tmp_path) -> None:
    without = prunus.prune(checkpoint("llama"), tmp_path / "one", method="magnitude", eval_windows=0)
    given = prunus.prune(checkpoint("llama"), tmp_path / "two", method="magnitude", **quick)
    assert {site["error_of"] for site in without.sites} == {"weight"}
    assert {site["error_of"] for site in given.sites} == {"sample"}
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_the_tutorials_variant_differs_from_the_papers_wanda(checkpoint, quick, tmp_path) -> None:
    paper = prunus.prune(checkpoint("llama"), tmp_path / "one", method="wanda", **quick)
    tutorial = prunus.prune(
        checkpoint("llama"), tmp_path / "two", method="wanda", criterion="wanda:statistic=mean_abs",
        pattern="unstructured:scope=layer", **quick,
    )  # fmt: skip
    assert paper.sparsity == pytest.approx(tutorial.sparsity)
    assert (tmp_path / "one/model.safetensors").read_bytes() != (tmp_path / "two/model.safetensors").read_bytes()


def test_overwrite_replaces_only_when_done(checkpoint, quick, tmp_path) -> None:
    out = tmp_path / "out"
    prunus.prune(checkpoint("llama"), out, method="magnitude", eval_windows=0)
    first = (out / "model.safetensors").read_bytes()
    with pytest.raises(prunus.PrunusError, match="exists already"):
        prunus.prune(checkpoint("llama"), out, method="wanda", **quick)
    assert (out / "model.safetensors").read_bytes() == first
    prunus.prune(checkpoint("llama"), out, method="wanda", overwrite=True, **quick)
    assert (out / "model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_calibration_text_comes_in_every_form(kind, checkpoint, quick, text, tmp_path) -> None:
    documents = text.split("\n\n")
    if kind == "jsonl":
        source = tmp_path / "text.jsonl"
        source.write_text("".join(json.dumps({"id": k, "text": part}) + "\n" for k, part in enumerate(documents)))
    elif kind == "parquet":
        import datasets

        source = tmp_path / "text.parquet"
        datasets.Dataset.from_dict({"text": documents}).to_parquet(source)
    else:
        source = tmp_path / "texts"
        source.mkdir()
        for k, part in enumerate(documents):
            (source / f"{k:04d}.txt").write_text(part)
    from prunus.observe.text import read_text

    assert read_text(source) == text


@pytest.mark.slow
def test_the_real_model_gets_worse_in_the_right_order(smollm: Path, tmp_path) -> None:
    """SmolLM2-135M, a little text: sparsegpt < wanda < magnitude in perplexity at 2:4, far from the dense model's."""
    found = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        result = prunus.prune(
            smollm, tmp_path / method, method=method, sparsity="2:4", samples=16, seqlen=128, eval_windows=8
        )
        found[method] = result.perplexity
    assert 15 < found["wanda"]["dense"] < 50
    assert found["wanda"]["dense"] < found["sparsegpt"]["pruned"] < found["wanda"]["pruned"] < found["magnitude"]["pruned"]


def test_a_real_model_passes_its_proof_however_bad_it_is_now(smollm, tmp_path) -> None:
    """Half of the weights gone by magnitude makes much of every rounding, which must not look like a wrong model."""
    result = prunus.prune(smollm, tmp_path / "out", method="magnitude", sparsity=0.5, eval_windows=0)
    assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")
    assert "logits within" in result.record["proof"]["reload"]
