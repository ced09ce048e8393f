"""Channel permutation: the order pays, folds into the layers before, and changes nothing in the dense model."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from test_listed_experts import Listed
from test_solvers import make

import prunus
from prunus.core.plan import Step
from prunus.core.stats import Stats
from prunus.criteria.wanda import Wanda
from prunus.models.folds import Fold
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


def folds_of_first_block(source: MemorySource, trunk: Trunk) -> list[Fold]:
    """Those that a run finds in the first block."""
    arranger, block = Arranger([Permute()]), source.blocks[0]
    steps = [Step(site, 0.5, NM(2, 4)) for site in source.found[0].sites]
    arranger.begin(block, steps, lambda: trunk.run(block, 0, 0).hidden, trunk.shares_state)
    return list(arranger._folds.values())


@pytest.mark.parametrize(
    ("family", "consumers"),
    [
        ("llama", {"mlp.down_proj": (1, 1), "self_attn.o_proj": (2, 2)}),
        ("qwen2", {"mlp.down_proj": (1, 1)}),  # its values have a bias
        ("gemma2", {"mlp.down_proj": (1, 1), "self_attn.o_proj": (2, 2)}),
        ("gemma4", {"mlp.down_proj": (1, 1)}),  # later blocks read its values
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
    found = folds_of_first_block(source, trunk)
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
    assert {fold.consumer.role for fold in folds_of_first_block(source, trunk)} == {"self_attn.o_proj"}


def test_what_no_token_reaches_is_no_fold() -> None:
    """Nothing shows that channels of an expert may change places that stands idle; the next block is asked again."""
    model = model_of("llama")
    for seed, avoided in enumerate([[2], [1]]):
        mlp = model.model.layers[seed].mlp
        model.model.layers[seed].mlp = Listed(mlp, model.config.hidden_size, seed, avoided).eval()
    source = MemorySource(model, torch.device("cpu"))
    trunk = Trunk(source, torch.arange(128).view(2, 64), 128, 1 << 30, None)
    trunk.embed()
    arranger = Arranger([Permute()])
    for index, idle in ((0, 2), (1, 1)):
        block = source.blocks[index]
        steps = [Step(site, 0.5, NM(2, 4)) for site in source.found[index].sites]
        arranger.begin(block, steps, lambda block=block, index=index: trunk.run(block, index, 0).hidden, False)
        experts = {fold.consumer.role for fold in arranger._folds.values() if "experts" in fold.consumer.role}
        assert experts == {f"mlp.experts.{k}.down_proj" for k in range(4) if k != idle}
        trunk.advance(block, index)


def test_folds_are_tried_out_anew_where_blocks_of_a_kind_differ_in_shape() -> None:
    """A block with as many key/value heads as queries behind one with fewer, as where local and global layers mix."""
    source, wide = MemorySource(model_of("llama"), torch.device("cpu")), model_of("llama", num_key_value_heads=4)
    trunk = Trunk(source, torch.arange(64).view(2, 32), 64, 1 << 30, None)
    trunk.embed()
    arranger = Arranger([Permute()])
    for model, groups in ((source.model, 2), (wide, 4)):
        block, sites = model.model.layers[0], MemorySource(model, torch.device("cpu")).found[0].sites
        steps = [Step(site, 0.5, NM(2, 4)) for site in sites]
        arranger.begin(block, steps, lambda block=block: trunk.run(block, 0, 0).hidden, False)
        fold = arranger._folds["model.layers.0.self_attn.o_proj"]
        assert (fold.groups, fold.copies) == (groups, 4 // groups)


def test_only_folds_into_n_of_m_are_tried_out() -> None:
    source = MemorySource(model_of("llama"), torch.device("cpu"))
    block, sites = source.model.model.layers[0], source.found[0].sites
    arranger = Arranger([Permute()])
    steps = [Step(site, 0.5, Unstructured()) for site in sites]
    arranger.begin(block, steps, lambda: pytest.fail("a block was run though no order is to be chosen"), False)
    assert not arranger._folds


def test_rows_that_a_pattern_binds_together_are_not_moved(tokenizer, quick) -> None:
    settings = {**quick, "method": "sparsegpt", "sparsity": 0.5, "stage": ["permute"], "set": ["*.down_proj=2:4"]}
    result = prunus.prune(model_of("llama"), tokenizer=tokenizer, pattern="block:height=4,width=4", **settings)
    assert {site["layer"]: round(site["sparsity"], 2) for site in result.sites}["mlp.down_proj"] == 0.5


@pytest.fixture
def orders(monkeypatch) -> dict[str, tuple[Fold, torch.Tensor]]:
    """The folds that runs make use of, and the orders that they choose, by the consumer's name."""
    found, folded = {}, Arranger.folded

    def spied(self, solutions):
        found.update({name: (self._folds[name], order) for name, order in self._orders.items()})
        return folded(self, solutions)

    monkeypatch.setattr(Arranger, "folded", spied)
    return found


@torch.no_grad()
def assert_same_with_the_order_undone(model: torch.nn.Module, orders: dict[str, tuple[Fold, torch.Tensor]]) -> None:
    ids = torch.arange(3, 67).view(1, 64)
    given = model(input_ids=ids).logits
    for fold, order in orders.values():
        weight = model.get_parameter(fold.consumer.parameter).data
        weight[:, fold.columns(order)] = weight.clone()
        for site in fold.producers:
            weight = model.get_parameter(site.parameter).data
            weight[fold.rows(order)] = weight.clone()
    torch.testing.assert_close(model(input_ids=ids).logits, given, rtol=1e-3, atol=1e-3)


def test_nothing_is_moved_that_other_blocks_read(tokenizer, quick, orders) -> None:
    """Gemma 4's last blocks attend to the keys and values of earlier ones."""
    model = model_of("gemma4")
    prunus.prune(model, tokenizer=tokenizer, method="wanda", sparsity="2:4", stage=["permute"], **quick)
    assert {name.rpartition(".")[2] for name in orders} == {"down_proj"}
    assert_same_with_the_order_undone(model, orders)


@pytest.mark.parametrize("sparsity", ["2:4", "1:4"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "balanced"])
def test_the_pruned_model_is_that_with_the_order_undone(method, sparsity, checkpoint, tokenizer, quick, tmp_path, orders):
    """Rows and columns put back into their old places: the same function. Streamed is in-memory; the errors fall."""
    from transformers import AutoModelForCausalLM

    settings = {**quick, "method": method, "sparsity": sparsity}
    plain = prunus.prune(model_of("llama"), tokenizer=tokenizer, stage=["none"], **settings)
    assert not orders
    model = model_of("llama")
    result = prunus.prune(model, tokenizer=tokenizer, stage=["permute"], **settings)
    prunus.prune(checkpoint("llama"), tmp_path / "out", stage=["permute"], **settings)
    streamed = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name
    assert len(orders) == 6
    assert {site["name"] for site in result.sites if site["permuted"]} == orders.keys()
    assert_same_with_the_order_undone(model, orders)
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
    settings = {**quick, "method": "best", "sparsity": "2:4", "own_text": 0}
    plain = prunus.prune(model_of("llama"), tokenizer=tokenizer, stage=["match"], **settings)
    result = prunus.prune(model_of("llama"), tokenizer=tokenizer, stage=["permute", "match"], **settings)
    assert all(site["error_of"] == "block" and abs(site["sparsity"] - 0.5) < 0.02 for site in result.sites)
    assert {site["layer"] for site in result.sites if site["permuted"]} == {"self_attn.o_proj", "mlp.down_proj"}
    assert not any(site["permuted"] for site in plain.sites)
    errors = [[site["rel_error"] for site in found.sites if site["block"] == 0] for found in (plain, result)]
    assert errors[1] < errors[0]
