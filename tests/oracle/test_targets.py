"""Targets: solvers reach the least-squares optimum of the output they aim at, on inputs that plain hooks see too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

import prunus
from prunus.core import registry
from prunus.core.errors import RecipeError
from prunus.core.mask import Mask
from prunus.core.problem import Problem
from prunus.core.site import Site
from prunus.core.stats import Stats
from prunus.models.residual import residual_streams
from prunus.recipe import Recipe
from prunus.solve.aim import aimed
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Trunk
from prunus.targets.dense import Dense
from prunus.verbs.prepare import calibration_windows
from tiny import model_of

ROWS, COLS, TOKENS = 12, 32, 400


def noisy(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, inputs, and what they were before something upstream was pruned."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(TOKENS, COLS, generator=generator) @ torch.randn(COLS, COLS, generator=generator)
    return torch.randn(ROWS, COLS, generator=generator), clean + torch.randn(TOKENS, COLS, generator=generator), clean


def problem_of(weight: torch.Tensor, inputs: torch.Tensor, dense: torch.Tensor, sparsity: float = 0.5,
               stream: torch.Tensor | None = None) -> Problem:  # fmt: skip
    """``stream [tokens rows]`` is what the dense model's residual stream has above the pruned one's."""
    moments = {"gram": inputs.T @ inputs, "drift": (dense - inputs).T @ inputs}
    if stream is not None:
        moments["behind"] = ((dense - inputs) @ weight.T + stream).T @ inputs
    site = Site("site", "site.weight", (1, *weight.shape), torch.float32)
    stats = Stats(torch.tensor([len(inputs)]), {name: moment[None] for name, moment in moments.items()})
    pattern, criterion = registry.pattern.make("unstructured"), registry.criterion.make("wanda")
    return Problem(site, weight[None], stats, sparsity, pattern, criterion)


def lost(pruned: torch.Tensor, wanted: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((wanted - inputs.double() @ pruned.double().T).square().sum())


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("solver", ["lstsq:method=exact", "lstsq:steps=300,tolerance=1e-7", "admm:polish=300"])
def test_fixed_masks_reach_the_closed_form_of_the_mixed_output(solver: str, share: float, writes: bool) -> None:
    weight, inputs, dense = noisy(0)
    stream = inputs[:, :ROWS] + torch.randn(TOKENS, ROWS, generator=torch.Generator().manual_seed(2)) if writes else None
    wanted = ((1 - share) * inputs + share * dense).double() @ weight.double().T
    if stream is not None:
        wanted += share * stream.double()
    keep = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(1)) < 0.6
    best = torch.zeros(ROWS, COLS, dtype=torch.float64)
    for row in range(ROWS):
        support = keep[row]
        solved = torch.linalg.lstsq(inputs[:, support].double(), wanted[:, row : row + 1])
        best[row, support] = solved.solution.squeeze(1)
    mask = Mask(keep[None], registry.pattern.make("unstructured"))
    problem = replace(problem_of(weight, inputs, dense, stream=stream), fixed_mask=mask)
    name, _, options = solver.partition(":")
    made = registry.solver.make(name, {"damp": 0.0, **dict(option.split("=") for option in options.split(","))})
    (solution,) = made.solve(aimed([problem], Dense(share), 0.0)[0])
    torch.testing.assert_close(solution.weight[0].double(), best, rtol=1e-3, atol=1e-3)
    assert lost(solution.weight[0], wanted, inputs) <= 1.0001 * lost(best, wanted, inputs)


@pytest.mark.parametrize("solver", ["sparsegpt", "admm", "lstsq"])
def test_aiming_at_an_output_comes_nearer_to_it(solver: str) -> None:
    weight, inputs, dense = noisy(2)
    problem, wanted = problem_of(weight, inputs, dense), dense.double() @ weight.double().T
    made = registry.solver.make(solver)
    (own,), (other,) = made.solve([problem]), made.solve(aimed([problem], Dense(1.0), 0.01)[0])
    assert lost(other.weight[0], wanted, inputs) < 0.98 * lost(own.weight[0], wanted, inputs)
    plain = inputs.double() @ weight.double().T  # errors are told from the layer's own output, whatever is aimed at
    assert other.rel_error == pytest.approx(lost(other.weight[0], plain, inputs) / float(plain.square().sum()), rel=1e-3)


def test_layers_of_which_nothing_is_dropped_are_left_alone() -> None:
    weight, inputs, dense = noisy(3)
    whole, half = problem_of(weight, inputs, dense, 0.0), problem_of(weight, inputs, dense)
    (kept, moved), notes = aimed([whole, half], Dense(0.3), 0.01)
    assert notes == ()
    assert kept.aim is None
    assert moved.aim is not None
    (solution, _) = registry.solver.make("admm").solve([kept, moved])
    assert torch.equal(solution.weight[0], weight)


def test_layers_that_are_only_rounded_aim_too() -> None:
    weight, inputs, dense = noisy(3)
    problem = replace(problem_of(weight, inputs, dense, 0.0), grid=registry.grid.make("int", {"group": 0}))
    (moved,), _ = aimed([problem], Dense(0.3), 0.01)
    assert moved.aim is not None


def test_inputs_that_say_nothing_leave_their_weights_alone() -> None:
    """Always zero, in both models; and a single token, or a constant, moves no weight beyond measure."""
    weight, inputs, dense = noisy(4)
    inputs[:, [3, 17]] = dense[:, [3, 17]] = 0.0
    (moved,), _ = aimed([problem_of(weight, inputs, dense)], Dense(0.3), 0.01)
    assert torch.equal(moved.aim[0][:, [3, 17]], weight[:, [3, 17]])
    inputs[:, 5] = dense[:, 5] = 1.0
    for rows in (slice(None), slice(1)):
        (moved,), notes = aimed([problem_of(weight, inputs[rows], dense[rows])], Dense(0.3), 0.01)
        assert (moved.aim[0] - weight).norm() < weight.norm()
        assert notes == ()


def test_damping_that_an_aim_needs_is_told(tokenizer, quick) -> None:
    """With fewer tokens than inputs and no damping asked for; ADMM itself inverts no Gram without a penalty."""
    settings = {**quick, "samples": 1, "seqlen": 16, "own_text": 0, "allocation": "uniform", "solver": "admm:damp=0"}
    result = prunus.prune(model_of("llama"), tokenizer=tokenizer, method="balanced", **settings)
    behind = [site for site in result.sites if site["block"] > 0]
    assert all(any(note.startswith("damping raised from 0 to") for note in site["notes"]) for site in behind)
    plain = prunus.prune(model_of("llama"), tokenizer=tokenizer, method="balanced", target="sparse", **settings)
    assert not any(site["notes"] for site in plain.sites)


def inputs_of(model: torch.nn.Module, path: str, windows: torch.Tensor) -> torch.Tensor:
    """What the module at ``path`` is handed ``[tokens cols]``, caught by a plain hook."""
    caught: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _m, args: caught.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    handle.remove()
    return torch.cat(caught)


LAYER = "model.layers.1"


@pytest.mark.parametrize(
    ("path", "stream"),
    [("self_attn.k_proj", None), ("self_attn.o_proj", ""), ("mlp.down_proj", ".post_attention_layernorm")],
)
def test_the_inputs_set_beside_each_other_are_those_of_both_models(path: str, stream: str | None, tokenizer, quick) -> None:
    """A layer behind a pruned block, solved again from inputs of the dense and the pruned model that hooks caught."""
    settings = {**quick, "samples": 16, "method": "wanda", "solver": "lstsq", "target": "dense:share=0.5", "sparsity": 0.5}
    dense, half, pruned = model_of("llama"), model_of("llama"), model_of("llama")
    prunus.prune(half, tokenizer=tokenizer, include=["model.layers.0.*"], **settings)
    prunus.prune(pruned, tokenizer=tokenizer, **settings)
    windows = calibration_windows(MemorySource(dense, torch.device("cpu")), tokenizer, Recipe.of(settings))
    layer = f"{LAYER}.{path}"
    weight = dense.get_submodule(layer).weight.detach()
    above = None
    if stream is not None:
        above = inputs_of(dense, LAYER + stream, windows) - inputs_of(half, LAYER + stream, windows)
    problem = problem_of(weight, inputs_of(half, layer, windows), inputs_of(dense, layer, windows), stream=above)
    method = Recipe.of(settings).build_method()
    problem = replace(problem, pattern=method.pattern)
    (solution,) = method.solver.solve(aimed([problem], method.target, method.solver.damp)[0])
    found = pruned.get_submodule(layer).weight.detach()
    assert (solution.weight[0] - found).norm() < 1e-3 * found.norm()
    (other,) = method.solver.solve([problem])
    assert (other.weight[0] - found).norm() > 10 * (solution.weight[0] - found).norm()


STREAMS = {
    "llama": {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm"},
    "gpt2": {"attn.c_proj": "", "mlp.c_proj": "ln_2"},
    "gpt_neox": {"attention.dense": "", "mlp.dense_4h_to_h": ""},  # attention and feed-forward beside each other
    "falcon": {"self_attention.dense": "", "mlp.dense_4h_to_h": ""},  # one's output is added to the other's in place
    "opt": {"self_attn.out_proj": "", "fc2": "final_layer_norm"},  # which is handed all tokens in one row
    "mixtral": {"self_attn.o_proj": ""},  # experts are left out
    "gemma2": {},  # a norm stands between
}


@pytest.mark.parametrize("family", STREAMS)
def test_the_streams_that_layers_write_to_are_found(family: str, tokenizer, quick) -> None:
    source = MemorySource(model_of(family), torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    trunk = Trunk(source, windows, 256, 1 << 30, None)
    trunk.embed()
    trunk.advance(source.load(0), 0)
    block, sites = source.load(1), source.found[1].sites
    assert residual_streams(block, sites, lambda: trunk.run(block, 1, 0).hidden) == STREAMS[family]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "mixtral", "gemma4"])
def test_streamed_is_in_memory(family: str, checkpoint, tokenizer, quick, tmp_path) -> None:
    settings = {**quick, "method": "balanced", "target": "dense", "sparsity": "2:4"}
    result = prunus.prune(checkpoint(family), tmp_path / "out", **settings)
    model = model_of(family)
    prunus.prune(model, tokenizer=tokenizer, **settings)
    streamed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name
    for site in result.sites:
        assert any("target sparse" in note for note in site["notes"]) is ("experts" in site["name"]), site["name"]


def test_several_passes_over_a_block_see_what_one_does(checkpoint, quick, tmp_path) -> None:
    """A budget that holds few moments at once means several passes of both models over a block."""
    settings = {**quick, "method": "balanced", "target": "dense"}
    for name, budget in (("one", 1.0), ("several", 5e-5)):
        prunus.prune(checkpoint("llama"), tmp_path / name, **settings, memory_budget=budget)
    file = "model.safetensors"
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "several" / file).read_bytes()


def test_nothing_to_aim_where_survivors_stay_as_they_are() -> None:
    with pytest.raises(RecipeError, match="choose another --solver"):
        Recipe.of({"method": "wanda", "target": "dense"})
    with pytest.raises(RecipeError, match=r"share 1.5 must be in"):
        Recipe.of({"method": "balanced", "target": "dense:share=1.5"})
