"""Layers in turn: what feeds what is found in any family, and every layer is solved on what the finished model hands it."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional

import prunus
from prunus.core.errors import RecipeError, UnsupportedModelError
from prunus.core.site import Site
from prunus.models.turns import turns
from prunus.recipe import Recipe
from prunus.solve.aim import aimed
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Trunk
from prunus.verbs.prepare import calibration_windows
from tiny import model_of

GATED = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
TURNS = {
    "llama": GATED,
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "gpt_neox": [["query_key_value", "dense_h_to_4h"], ["dense", "dense_4h_to_h"]],
    "cohere": [["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"], ["o_proj", "down_proj"]],
    "mixtral": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]],
    "deepseek_v3": [["q_a_proj", "kv_a_proj_with_mqa"], ["q_b_proj", "kv_b_proj"], ["o_proj"],
                    ["gate_up_proj", "gate_proj", "up_proj"], ["down_proj", "down_proj"]],
    "gemma4": [*GATED, ["per_layer_input_gate"], ["per_layer_projection"]],
}  # fmt: skip


NORMS = {
    "o_proj": ("self_attn.o_proj", "input_layernorm"), "down_proj": ("mlp.down_proj", "post_attention_layernorm"),
    "attn": ("attn.c_proj", "ln_1"), "mlp": ("mlp.c_proj", "ln_2"), "c_proj": ("", ""),
}  # fmt: skip
"""The norm that is handed the residual stream which a layer's output is added to: what to replace in the layer's name."""


def turns_of_block(model, index: int) -> list[list[str]]:
    source = MemorySource(model, torch.device("cpu"))
    trunk = Trunk(source, torch.randint(0, 512, (2, 32)), 64, 1 << 30, None)
    trunk.embed()
    for before in range(index):
        trunk.advance(source.blocks[before], before)
    block, sites = source.blocks[index], source.found[index].sites
    parameters = {site.role: model.get_parameter(site.parameter) for site in sites}
    return turns(sites, parameters, lambda hidden: trunk.run(block, index, 0, hidden).hidden, trunk.state.read(
        trunk.batches[0], source.device
    ))  # fmt: skip


@pytest.mark.parametrize("family", TURNS)
def test_what_feeds_what(family: str) -> None:
    model = model_of(family)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    found = turns_of_block(model, 1)
    assert [[role.rpartition(".")[2] for role in turn] for turn in found] == TURNS[family]
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


class Adapted(torch.nn.Module):
    """Each layer's weight is made of several parameters, of which one is the Site's."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = torch.nn.ParameterList(torch.randn(8, 8) for _ in range(3))
        self.scale = torch.nn.Parameter(torch.rand(8, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        one, two, last = (weight * self.scale for weight in self.sites)
        return functional.linear(functional.linear(hidden, one) * functional.linear(hidden, two.T.contiguous()), last)


def test_weights_that_are_computed_before_they_are_used() -> None:
    """What counts is where a weight meets the inputs."""
    block = Adapted()
    sites = [Site(f"sites.{k}", f"sites.{k}", (1, 8, 8), torch.float32, role=f"one{k}") for k in range(3)]
    parameters = {site.role: block.get_parameter(site.parameter) for site in sites}
    assert turns(sites, parameters, block, torch.randn(4, 8)) == [["one0", "one1"], ["one2"]]


def test_a_block_without_a_graph_is_refused() -> None:
    model = model_of("llama")
    block = model.model.layers[0]
    block.forward = torch.no_grad()(block.forward)
    with pytest.raises(UnsupportedModelError, match="Choose --no-true-sequential"):
        turns_of_block(model, 0)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_it_is_one_run_after_another(family: str, method: str, tokenizer, quick) -> None:
    settings = {**quick, "method": method, "sparsity": 0.6, "eval_windows": 0}
    ours, theirs = model_of(family), model_of(family)
    prunus.prune(ours, tokenizer=tokenizer, **settings, true_sequential=True)
    source = MemorySource(theirs, torch.device("cpu"))
    for found in source.found:
        last = {site.role.rpartition(".")[2]: site.name for site in found.sites}
        for turn in TURNS[family]:
            prunus.prune(theirs, tokenizer=tokenizer, **settings, include=[last[name] for name in turn])
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize("sparsity", [0.6, "2:4"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_inputs_are_those_in_the_finished_model(family, sparsity, in_turn, tokenizer, quick, monkeypatch) -> None:
    """Beside those of the dense model, which what was solved must not touch."""
    seen = {}

    def spy(problems, target, damp):
        seen.update({problem.site.name: problem.stats for problem in problems})
        return aimed(problems, target, damp)

    monkeypatch.setattr("prunus.stream.solve_block.aimed", spy)
    settings = {**quick, "method": "balanced", "own_text": 0, "eval_windows": 0, "stage": ["permute"], "sparsity": sparsity}
    model, dense = model_of(family), model_of(family)
    prunus.prune(model, tokenizer=tokenizer, **settings, true_sequential=in_turn)
    windows = calibration_windows(MemorySource(dense, torch.device("cpu")), tokenizer, Recipe.of(quick))
    assert any(stats.has("behind") for stats in seen.values())
    for name, stats in seen.items():
        last = name.rpartition(".")[2]
        if sparsity == "2:4" and last in NORMS:
            continue  # whose inputs the stage has put in another order
        ours, theirs = (inputs_of(one, name, windows) for one in (model, dense))
        moments = [(stats.gram(), ours.T @ ours)]
        if stats.has("behind"):
            (weight,) = found_site(dense, name).layout.to_matrix(dense.get_submodule(name).weight.detach()).double()
            norm = name.replace(*NORMS[last if family == "llama" else name.split(".")[-2]])
            above = inputs_of(dense, norm, windows) - inputs_of(model, norm, windows)
            moments.append((stats.of_weights("behind"), ((theirs - ours) @ weight.T + above).T @ ours))
        else:
            moments.append((stats.drift(), (theirs - ours).T @ ours))
        first = last in ("q_proj", "k_proj", "v_proj", "c_attn")
        for moment, expected in moments:
            far = float((moment[0].double() - expected).norm() / (ours.T @ ours).norm())
            assert (far < 1e-5) is (in_turn or first), (name, far)


def inputs_of(model, name: str, windows: torch.Tensor) -> torch.Tensor:
    """What a layer is handed, ``[tokens cols]``, by a plain hook."""
    found: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: found.append(args[0]))
    with torch.no_grad():
        model(windows)
    hook.remove()
    return found[0].flatten(0, -2).double()


def found_site(model, name: str) -> Site:
    source = MemorySource(model, torch.device("cpu"))
    return next(site for found in source.found for site in found.sites if site.name == name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_streamed_is_in_memory(family: str, checkpoint, tokenizer, quick, tmp_path) -> None:
    settings = {**quick, "method": "best", "sparsity": "2:4"}
    prunus.prune(checkpoint(family), tmp_path / "out", **settings)
    model = model_of(family)
    prunus.prune(model, tokenizer=tokenizer, **settings)
    streamed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name


def test_what_is_no_choice_is_refused() -> None:
    with pytest.raises(RecipeError, match="true_sequential: method 'magnitude' looks at no inputs"):
        Recipe.of({"method": "magnitude", "true_sequential": True})
    with pytest.raises(RecipeError, match="true_sequential 'yes' must be true or false"):
        Recipe.of({"true_sequential": "yes"})
    assert Recipe.of({"method": "best"}).build_method().true_sequential
    assert not Recipe.of({"method": "best", "true_sequential": False}).build_method().true_sequential
