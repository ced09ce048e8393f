"""Experts that are modules in a list, as models outside of Transformers have them: the same rules as for stacked ones."""

from __future__ import annotations

import copy

import pytest
import torch
from measured import inputs_of, measured, solved_alone
from torch import Tensor, nn

import prunus
from prunus.models.skeleton import find_stacks
from prunus.observe.windows import random_windows
from prunus.stream.sources import MemorySource
from tiny import model_of

EXPERTS, STARVED = 4, 2
SIZE = {"samples": 6, "seqlen": 48, "method": "sparsegpt"}


class Listed(nn.Module):
    """Copies of a feed-forward block with other weights; every token goes to one of them, none to those in ``avoided``."""

    def __init__(self, dense: nn.Module, width: int, seed: int, avoided: list[int]) -> None:
        super().__init__()
        self.avoided = avoided
        generator = torch.Generator().manual_seed(seed)
        self.router = nn.Linear(width, EXPERTS, bias=False)
        self.experts = nn.ModuleList(copy.deepcopy(dense) for _ in range(EXPERTS))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, -2)
        logits = nn.functional.linear(flat, self.router.weight)
        logits[:, self.avoided] = -torch.inf
        chosen, result = logits.argmax(-1), torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                result[chosen == number] = expert(flat[chosen == number])
        return result.view_as(hidden)


def listed(*avoided: int) -> nn.Module:
    model = model_of("llama")
    for seed, block in enumerate(model.model.layers):
        block.mlp = Listed(block.mlp, model.config.hidden_size, seed, list(avoided)).eval()
    return model


@pytest.fixture
def windows_of(tokenizer, text_file):
    """Gives the windows that are calibrated on."""

    def windows(samples: int, seqlen: int) -> Tensor:
        return random_windows(torch.tensor(tokenizer(text_file.read_text())["input_ids"]), samples, seqlen, 0, "text")

    return windows


@pytest.mark.parametrize("avoided", [[], [STARVED]])
@pytest.mark.parametrize(("samples", "seqlen", "batch_tokens"), [(6, 48, 4096), (150, 3, 3)])
def test_every_token_of_every_batch_is_counted(
    avoided, samples, seqlen, batch_tokens, tokenizer, quick, windows_of
) -> None:
    """A pass must not end early because an earlier one reached fewer experts: three tokens reach at most three."""
    windows = windows_of(samples, seqlen)
    dense, pruned = listed(*avoided), listed(*avoided)
    settings = {**quick, **SIZE, "samples": samples, "seqlen": seqlen, "batch_tokens": batch_tokens}
    result = prunus.prune(pruned, tokenizer=tokenizer, **settings)
    records = {record["name"]: record for record in result.sites}
    inputs = inputs_of(dense, find_stacks(dense)[0].blocks[0], windows)
    assert "model.layers.0.mlp.router" not in records
    reached = 0
    for site in MemorySource(dense, torch.device("cpu")).found[0].sites:
        if ".experts." not in site.name:
            assert "experts" not in records[site.name]
            continue
        told = records[site.name]["experts"]
        if (site.role, 0) not in inputs:
            assert told == {"tokens": [0], "starved": [0], "dense": []}
            assert avoided
            continue
        assert told["tokens"] == [len(inputs[site.role, 0])]
        reached += told["tokens"][0]
        if told["tokens"][0] >= 64:
            expected = measured(site, dense, pruned, inputs)
            assert records[site.name]["rel_error"] == pytest.approx(expected, rel=2e-3), site.name
    assert reached == 3 * windows.numel()


@pytest.mark.parametrize("memory_budget", [4.0, 1e-9])
def test_shared_statistics_are_those_of_all_tokens(memory_budget, tokenizer, quick, windows_of) -> None:
    dense, pruned, caught = listed(STARVED), listed(STARVED), []
    settings = {**quick, **SIZE, "memory_budget": memory_budget}
    prunus.prune(pruned, tokenizer=tokenizer, **settings)
    mlp = dense.model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda _module, args: caught.append(args[0].flatten(0, -2)))
    expert = mlp.experts[STARVED]
    with torch.no_grad():
        dense(input_ids=windows_of(6, 48))
        hidden = torch.cat(caught)
        inputs = {"gate_proj": hidden, "down_proj": expert.act_fn(expert.gate_proj(hidden)) * expert.up_proj(hidden)}
    for name, x in inputs.items():
        path = f"model.layers.0.mlp.experts.{STARVED}.{name}"
        (site,) = [one for one in MemorySource(dense, torch.device("cpu")).found[0].sites if one.name == path]
        expected = solved_alone(site, dense, x)
        torch.testing.assert_close(pruned.get_parameter(f"{path}.weight"), expected, rtol=1e-3, atol=1e-4)


def test_dense_leaves_it_as_it_is(tokenizer, quick) -> None:
    dense, pruned = listed(STARVED), listed(STARVED)
    settings = {**quick, **SIZE, "starved_experts": "dense", "sparsity": "2:4"}
    prunus.prune(pruned, tokenizer=tokenizer, **settings)
    before, after = (model.model.layers[1].mlp.experts for model in (dense, pruned))
    assert torch.equal(before[STARVED].up_proj.weight, after[STARVED].up_proj.weight)
    assert (after[0].up_proj.weight == 0).float().mean() == 0.5
