"""Experts that too few tokens reach: solved on all tokens of their layer, by their weights alone, or left dense."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
import torch
from measured import solved_alone
from safetensors.torch import load_file
from torch import Tensor, nn

import prunus
from prunus.core.stats import Needs
from prunus.observe.waves import Wave
from prunus.observe.windows import random_windows
from prunus.patterns.lowest import keep_highest
from prunus.stream.solve_block import DenseRuns, observe
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Trunk
from tiny import model_of

STARVED = 2


def route_around(model: nn.Module, expert: int) -> None:
    """Make every router pass over one expert."""
    for block in model.model.layers:
        plain = block.mlp.gate.forward

        def forward(hidden, plain=plain):
            logits, scores, index = plain(hidden)
            return logits, scores, torch.where(index == expert, (index + 1) % 4, index)

        block.mlp.gate.forward = forward


def pruned(tokenizer, quick, **settings) -> tuple[nn.Module, prunus.PruneResult]:
    model = model_of("mixtral")
    route_around(model, STARVED)
    result = prunus.prune(
        model, tokenizer=tokenizer, **{**quick, "method": "sparsegpt", "samples": 6, "seqlen": 48, **settings}
    )
    return model, result


def expert_inputs(tokenizer, text_file) -> dict[str, Tensor]:
    """What the starved expert of the first block would be handed if every token were sent to it."""
    model, caught = model_of("mixtral"), []
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    experts = model.model.layers[0].mlp.experts
    experts.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
    with torch.no_grad():
        model(input_ids=random_windows(ids, 6, 48, 0, "text"))
        hidden = torch.cat(caught)
        gate, up = (hidden @ experts.gate_up_proj[STARVED].T).chunk(2, -1)
        return {"gate_up_proj": hidden, "down_proj": experts.act_fn(gate) * up}


@pytest.mark.parametrize("memory_budget", [4.0, 1e-9])
def test_shared_statistics_are_those_of_all_tokens(memory_budget, tokenizer, text_file, quick) -> None:
    """Also where every expert is observed in a pass of its own."""
    model, result = pruned(tokenizer, quick, memory_budget=memory_budget)
    dense, inputs = model_of("mixtral"), expert_inputs(tokenizer, text_file)
    sites = {site.name: site for site in MemorySource(dense, torch.device("cpu")).found[0].sites if site.layout.stacked}
    for name, site in sites.items():
        expected = solved_alone(site, dense, inputs[name.rpartition(".")[2]], STARVED)
        torch.testing.assert_close(model.get_parameter(site.parameter)[STARVED], expected, rtol=1e-3, atol=1e-4)
    told = [site["experts"] for site in result.sites if "experts" in site]
    assert len(told) == 6
    assert all(expert["tokens"][STARVED] == 0 and STARVED in expert["starved"] and not expert["dense"] for expert in told)
    assert all(sum(expert["tokens"]) == 2 * 6 * 48 for expert in told)


def test_magnitude_looks_at_weights_alone(tokenizer, quick) -> None:
    model, _ = pruned(tokenizer, quick, starved_experts="magnitude")
    dense = model_of("mixtral")
    name = "model.layers.1.mlp.experts.down_proj"
    before, after = (one.get_parameter(name)[STARVED].detach() for one in (dense, model))
    blocks = [keep_highest(part.abs().flatten(), 0.5).view(part.shape) for part in before.split(128, 1)]
    assert torch.equal(after, before * torch.cat(blocks, 1))


TUNED = {"method": "best", "own_text": 0.0}
"""Settings that tune what they have pruned."""
GRID = {"grid": "int:bits=8,group=16"}


@pytest.mark.parametrize("more", [{}, TUNED, {**TUNED, **GRID}], ids=["", "tuned", "tuned, on a grid"])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_dense_leaves_them_as_they_are(sparsity, more, tokenizer, quick) -> None:
    settings = {"allocation": "uniform", **more}
    model, result = pruned(tokenizer, quick, starved_experts="dense", sparsity=sparsity, **settings)
    dense = model_of("mixtral")
    for site in result.sites:
        if "experts" in site:
            before, after = (one.get_parameter(site["name"]).detach() for one in (dense, model))
            assert torch.equal(before[STARVED], after[STARVED])
            assert (after[0] == 0).float().mean() == pytest.approx(0.5, abs=0.02)
            assert site["experts"]["dense"] == [STARVED]
            assert site["sparsity"] == pytest.approx(0.375, abs=0.01)


@pytest.mark.parametrize("more", [{}, TUNED, {**TUNED, **GRID}], ids=["", "tuned", "tuned, on a grid"])
def test_what_was_left_dense_passes_the_proof(more, checkpoint, quick, tmp_path) -> None:
    """With more tokens asked for than there are every expert is left dense: on disk, under 2:4, with its record."""
    settings = {**quick, "sparsity": "2:4", "starved_experts": "dense", "min_expert_tokens": 10**6, **more}
    result = prunus.prune(checkpoint("mixtral"), tmp_path / "out", **settings)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint("mixtral"), tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before if ".experts." in name)
    assert {site["sparsity"] for site in result.sites if "experts" in site} == {0.0}
    record = json.loads((tmp_path / "out" / "prunus.json").read_text())
    (first, *_) = [site for site in record["sites"] if "experts" in site]
    assert first["experts"]["dense"] == first["experts"]["starved"] == [0, 1, 2, 3]


def test_the_dense_model_runs_as_usual_beside_experts_that_are_observed(tokenizer) -> None:
    """What is stepped while experts run one by one has the bits of what a resumed run replays: three a token show it."""
    model = model_of("qwen3_moe", num_experts_per_tok=3)
    source = MemorySource(model, torch.device("cpu"))
    windows = torch.randint(2, 512, (8, 64), generator=torch.Generator().manual_seed(0))
    beside, alone, pruned = (Trunk(source, windows, 256, 1 << 30, None) for _ in range(3))
    for trunk in (beside, alone, pruned):
        trunk.embed()
    block, sites = source.blocks[0], source.found[0].sites
    dense = DenseRuns(partial(beside.steps, block, 0), {})
    observe(block, source.prefix(0), Wave(tuple(sites)), Needs.GRAM | Needs.DRIFT, pruned.runs(block, 0), dense)
    beside.turn()
    alone.advance(block, 0)
    every = slice(0, len(windows))
    assert torch.equal(beside.state.read(every, source.device), alone.state.read(every, source.device))


def test_coverage_is_told(checkpoint, quick, tmp_path, capsys) -> None:
    from rich.console import Console

    from prunus.report.tables import prune_table

    result = prunus.prune(checkpoint("mixtral"), tmp_path / "out", min_expert_tokens=200, **quick)
    Console(width=140).print(prune_table(result.record))
    printed = capsys.readouterr().out
    tokens = [count for site in result.sites if "experts" in site for count in site["experts"]["tokens"]]
    assert f"experts: {min(tokens)} to {max(tokens)} tokens each" in printed
    assert "saw fewer than 200 (--starved-experts shared)" in printed
    Console(width=70).print(prune_table(result.record))
    figures = re.findall(r"0\.\d{4}", capsys.readouterr().out)
    assert len(figures) == 2 * len({site["layer"] for site in result.sites}), "long names must not push figures out"


def test_shared_statistics_where_all_experts_are_multiplied_at_once(tokenizer, text_file, quick) -> None:
    """Llama 4: a token enters its expert times its score, and so it does where all tokens are shared."""

    def routed_around() -> nn.Module:
        model = model_of("llama4")
        for block in model.model.layers:
            plain = block.feed_forward.router.forward

            def forward(hidden, plain=plain):
                scores, logits = plain(hidden)
                others = torch.arange(scores.shape[1]) != STARVED
                moved = scores * others
                moved[:, (STARVED + 1) % 4] += scores[:, STARVED]
                return moved, logits

            block.feed_forward.router.forward = forward
        return model

    dense, model, caught = routed_around(), routed_around(), []
    settings = {**quick, "method": "sparsegpt", "samples": 6, "seqlen": 48}
    result = prunus.prune(model, tokenizer=tokenizer, **settings)
    experts = dense.model.layers[0].feed_forward.experts
    experts.register_forward_pre_hook(lambda _module, args: caught.append(args[0].view(4, -1, args[0].shape[-1]).sum(0)))
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    with torch.no_grad():
        dense(input_ids=random_windows(ids, 6, 48, 0, "text"))
        hidden = torch.cat(caught)
        gate, up = (hidden @ experts.gate_up_proj[STARVED]).chunk(2, -1)
        inputs = {"gate_up_proj": hidden, "down_proj": experts.act_fn(gate) * up}
    sites = {site.name: site for site in MemorySource(dense, torch.device("cpu")).found[0].sites if site.layout.stacked}
    assert len(sites) == 2
    for name, site in sites.items():
        (told,) = [record["experts"] for record in result.sites if record["name"] == name]
        assert told["tokens"][STARVED] == 0
        assert sum(told["tokens"]) == 6 * 48
        expected = solved_alone(site, dense, inputs[name.rpartition(".")[2]], STARVED)
        found = site.layout.to_matrix(model.get_parameter(site.parameter))[STARVED]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
