"""The same run on a GPU gives what the CPU gives, within float error."""

from __future__ import annotations

import pytest
import torch

import prunus
from prunus.measure.memory import resident_bytes

SOLVED = [
    {"method": "magnitude"},
    {"method": "wanda"},
    {"method": "sparsegpt"},
    {"method": "wanda", "criterion": "gradient"},
]
REPAIRED = [{"method": "balanced"}, {"method": "best"}, {"method": "best", "sparsity": "2:4"}]


def both(family: str, settings: dict, checkpoint, tmp_path) -> list[prunus.PruneResult]:
    """The run on the CPU and on the GPU, of the text alone: what a model writes hangs on the last bit of its logits."""
    common = {"dtype": "float32", "own_text": 0, **settings}
    found = []
    for device in ("cpu", "cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found.append(prunus.prune(checkpoint(family), tmp_path / device, device=device, **common))
        assert (torch.cuda.max_memory_allocated() > before) == (device == "cuda")
    estimates = [prunus.plan(checkpoint(family), device=device, **common).estimate for device in ("cpu", "cuda")]
    assert estimates[0].gpu_bytes == 0 < estimates[1].gpu_bytes
    assert estimates[1].memory_bytes <= estimates[0].memory_bytes + resident_bytes()
    for one, two in zip(*(result.sites for result in found), strict=True):
        assert one["sparsity"] == pytest.approx(two["sparsity"], abs=0.02)
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("composed", SOLVED, ids=lambda composed: " ".join(composed.values()))
def test_cpu_and_gpu_agree(family, composed, checkpoint, quick, tmp_path) -> None:
    one, two = both(family, {**quick, **composed}, checkpoint, tmp_path)
    for ours, theirs in zip(one.sites, two.sites, strict=True):
        assert ours["rel_error"] == pytest.approx(theirs["rel_error"], rel=0.02)
    assert one.perplexity["pruned"] == pytest.approx(two.perplexity["pruned"], rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("composed", REPAIRED, ids=lambda composed: " ".join(composed.values()))
def test_presets_are_as_good_on_a_gpu(family, composed, checkpoint, quick, tmp_path) -> None:
    """Steps of ADMM and of Adam carry rounding on, so that single weights differ and what they add up to does not."""
    one, two = both(family, {**quick, **composed}, checkpoint, tmp_path)
    errors = [sum(site["rel_error"] for site in result.sites) for result in (one, two)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert one.perplexity["pruned"] == pytest.approx(two.perplexity["pruned"], rel=0.05)


@pytest.mark.gpu
def test_a_model_writes_on_a_gpu(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "method": "balanced", "own_text": 0.5, "device": "cuda"}
    results = [prunus.prune(checkpoint("llama"), tmp_path / name, **settings) for name in ("one", "two")]
    assert results[0].record["plan"]["settings"]["calibration"]["own"] == 4
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


CUTS = [
    {"neurons": 0.5, "heads": 0.5, "layers": -1, "width": 24},
    {"neurons": 0.5, "importance": "taylor"},
    {"kv_groups": 1, "importance": "fluctuation"},
    {"layers": -1, "depth": "loss"},
]


@pytest.mark.gpu
@pytest.mark.parametrize("what", CUTS, ids=lambda what: " ".join(what))
def test_the_same_units_go_on_a_gpu(what, checkpoint, quick, tmp_path) -> None:
    settings = {"dtype": "float32", **quick, **what}
    one, two = (prunus.shrink(checkpoint("llama"), tmp_path / name, device=name, **settings) for name in ("cpu", "cuda"))
    assert one.record["plan"]["sizes"] == two.record["plan"]["sizes"]
    assert one.perplexity["pruned"] == pytest.approx(two.perplexity["pruned"], rel=0.02)


@pytest.mark.gpu
def test_a_latency_is_met_on_a_gpu(checkpoint, quick, tmp_path) -> None:
    settings = {"latency": ["0.9x"], "along": ["layers"], "device": "cuda", **quick}
    target = prunus.shrink(checkpoint("llama"), tmp_path / "out", **settings).record["plan"]["target"]
    assert target["reached"] <= target["limit"] < target["dense"]


@pytest.mark.gpu
@pytest.mark.parametrize("what", [{}, {"lora": 4, "lr": 1e-2}, {"loss": ["kl:top=9", "hidden"]}], ids=str)
def test_healing_on_a_gpu_holds_zeros_and_gives_the_same(what, checkpoint, quick, text_file, tmp_path) -> None:
    half = prunus.prune(checkpoint("llama"), tmp_path / "half", sparsity=0.5, method="magnitude", **quick).output
    settings = {"text": str(text_file), "tokens": 1024, "seqlen": 32, "held_out": 4, "lr": 2e-3, "evaluations": 2,
                "eval_text": str(text_file), "eval_windows": 2, "dtype": "float32", **what}  # fmt: skip
    settings["teacher"] = str(checkpoint("llama"))
    one, two = (prunus.distill(half, tmp_path / name, device=name, **settings) for name in ("cpu", "cuda"))
    assert one.record["zeros_held"] == two.record["zeros_held"] > 0
    assert one.held_out == pytest.approx(two.held_out, rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("allocation", ["uniform", "greedy"])
def test_activation_thresholds_of_cpu_and_gpu_agree(allocation, checkpoint, quick, tmp_path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.json"
        settings = {"allocation": allocation, "step": 0.1, "device": device, "dtype": "float32", **quick}
        found.append(prunus.threshold(checkpoint("llama"), file, **settings))
        judged = prunus.evaluate(
            checkpoint("llama"), quick["eval_text"], seqlen=64, windows=2, activations=file, device=device
        )
        assert judged.perplexity == pytest.approx(found[-1].held_out.perplexity, rel=1e-3)
    for one, two in zip(*(result.inputs for result in found), strict=True):
        assert one.level == pytest.approx(two.level, abs=1e-6)
        assert one.threshold == pytest.approx(two.threshold, rel=1e-3)
