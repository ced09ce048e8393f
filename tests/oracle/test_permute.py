"""Channel permutation: the order pays, folds into the layers before, and changes nothing in the dense model."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from test_solvers import make

import prunus
from prunus.core.stats import Stats
from prunus.criteria.wanda import Wanda
from prunus.models.folds import folds_of_block
from prunus.patterns.nm import NM
from prunus.patterns.unstructured import Unstructured
from prunus.stages.channels import channel_permutation
from prunus.stages.permute import Permute
from prunus.stream.arrange import Arranger
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Trunk
from tiny import model_of


def kept(scores: torch.Tensor, n: int, m: int) -> float:
    return float(scores.unflatten(-1, (-1, m)).topk(n, dim=-1).values.sum())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 5)])
def test_the_order_keeps_more_than_the_one_there_was(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(40, 8 * m, generator=generator) * torch.rand(8 * m, generator=generator) * 3).square()
    order = channel_permutation(scores, n, m)
    assert sorted(order.tolist()) == list(range(8 * m))
    dealt = channel_permutation(scores, n, m, rounds=0)
    assert kept(scores[:, order], n, m) > kept(scores, n, m)
    assert kept(scores[:, order], n, m) >= kept(scores[:, dealt], n, m)
    assert torch.equal(order, channel_permutation(scores, n, m))


def test_two_groups_of_four_come_near_the_best_of_all_partitions() -> None:
    for seed in range(8):
        scores = torch.rand(6, 8, generator=torch.Generator().manual_seed(seed)).square()
        best = max(kept(scores[:, [*first, *(set(range(8)) - set(first))]], 2, 4) for first in combinations(range(8), 4))
        found = kept(scores[:, channel_permutation(scores, 2, 4, rounds=3)], 2, 4)
        assert found > 0.97 * best


def test_many_rows_are_sampled_and_the_order_stays_one() -> None:
    order = channel_permutation(torch.rand(3000, 32), 2, 4)
    assert sorted(order.tolist()) == list(range(32))


@pytest.mark.parametrize(
    ("family", "consumers"),
    [
        ("llama", {"mlp.down_proj": (1, 1), "self_attn.o_proj": (2, 2)}),
        ("qwen2", {"mlp.down_proj": (1, 1)}),  # its values have a bias
        ("gemma2", {"mlp.down_proj": (1, 1), "self_attn.o_proj": (2, 2)}),
        ("opt", {}),
        ("gpt2", {}),
        ("phi3", {}),
    ],
)
def test_what_folds_is_found_and_tried_out(family: str, consumers, tokenizer) -> None:
    model = model_of(family)
    source = MemorySource(model, torch.device("cpu"))
    trunk = Trunk(source, torch.arange(64).view(2, 32), 64, 1 << 30, None)
    trunk.embed()
    before = [parameter.clone() for parameter in model.parameters()]
    found = folds_of_block(source.blocks[0], source.found[0].sites, lambda: trunk.run(source.blocks[0], 0, 0).hidden)
    assert {fold.consumer.role: (fold.groups, fold.copies) for fold in found} == consumers
    for one, two in zip(model.parameters(), before, strict=True):
        assert torch.equal(one, two)


def test_a_fold_that_changes_the_block_is_not_taken() -> None:
    """Values that are normalised over a head's channels with a gain for each cannot change places."""
    model = model_of("llama")
    source = MemorySource(model, torch.device("cpu"))
    block = source.blocks[0]
    gain = torch.rand(64)
    block.mlp.down_proj.register_forward_pre_hook(lambda module, args: (args[0] * gain,))
    trunk = Trunk(source, torch.arange(64).view(2, 32), 64, 1 << 30, None)
    trunk.embed()
    found = folds_of_block(block, source.found[0].sites, lambda: trunk.run(block, 0, 0).hidden)
    assert {fold.consumer.role for fold in found} == {"self_attn.o_proj"}


@pytest.mark.parametrize("sparsity", ["2:4", "1:4"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "balanced"])
def test_the_pruned_model_is_that_with_the_order_undone(
    method, sparsity, checkpoint, tokenizer, quick, tmp_path, monkeypatch
):
    """Rows and columns put back into their old places: the same function. Streamed is in-memory; the errors fall."""
    from transformers import AutoModelForCausalLM

    orders = {}
    folded = Arranger.folded

    def spied(self, solutions):
        orders.update({name: (self._folds[name], order) for name, order in self._orders.items()})
        return folded(self, solutions)

    settings = {**quick, "method": method, "sparsity": sparsity}
    plain = prunus.prune(model_of("llama"), tokenizer=tokenizer, **settings)
    monkeypatch.setattr(Arranger, "folded", spied)
    model = model_of("llama")
    result = prunus.prune(model, tokenizer=tokenizer, stage=["permute"], **settings)
    prunus.prune(checkpoint("llama"), tmp_path / "out", stage=["permute"], **settings)
    streamed = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name
    assert len(orders) == 6
    ids = torch.arange(3, 67).view(1, 64)
    with torch.no_grad():
        given = model(input_ids=ids).logits
        for fold, order in orders.values():
            weight = model.get_parameter(fold.consumer.parameter).data
            weight[:, fold.columns(order)] = weight.clone()
            for site in fold.producers:
                weight = model.get_parameter(site.parameter).data
                weight[fold.rows(order)] = weight.clone()
        torch.testing.assert_close(model(input_ids=ids).logits, given, rtol=1e-3, atol=1e-3)
    errors = {site["name"]: site["rel_error"] for site in plain.sites}
    first = [site for site in result.sites if site["block"] == 0 and site["layer"].endswith(("down_proj", "o_proj"))]
    assert all(site["rel_error"] < errors[site["name"]] for site in first)


def test_only_n_of_m_has_an_order() -> None:
    problem, _ = make(8, 16, criterion=Wanda(), pattern=Unstructured())
    assert Permute().arrange(problem, 1, 1) is None
    problem, inputs = make(8, 16, criterion=Wanda(), pattern=NM(2, 4))
    order = Permute().arrange(problem, 2, 2)
    assert order.shape == (2, 4)
    columns = torch.tensor([3, 1, 0, 2])
    stats = Stats.of(9, gram=problem.stats.gram()[0], norm_sq=inputs.square().sum(0)).columns(0, 4).permuted(columns)
    assert torch.equal(stats.gram(), problem.stats.gram()[0][:4, :4][columns][:, columns])
    assert torch.equal(stats.norm_sq(), inputs.square().sum(0)[columns])


def test_matching_follows_permutation(tokenizer, quick) -> None:
    result = prunus.prune(
        model_of("llama"), tokenizer=tokenizer, method="best", sparsity="2:4", stage=["permute", "match"], **quick
    )
    assert all(site["error_of"] == "block" and abs(site["sparsity"] - 0.5) < 0.02 for site in result.sites)
