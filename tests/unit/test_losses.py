"""Losses against torch's own and against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from prunus.core import registry
from prunus.core.errors import UnsupportedModelError
from prunus.core.lesson import Lesson, Seen, TopLogits
from prunus.train.held import HeldMasks, pruned_matrices
from prunus.train.low_rank import LowRank, add_low_rank, merge_low_rank
from tiny import model_of

VOCABULARY, SEQLEN = 50, 6


def lesson_of(top: int = VOCABULARY, temperature: float = 1.0, seed: int = 0) -> tuple[Lesson, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = 2 * torch.randn(2, SEQLEN, VOCABULARY, generator=generator)
    teacher = 3 * torch.randn(2, SEQLEN, VOCABULARY, generator=generator)
    student.requires_grad_()
    ids = torch.randint(0, VOCABULARY, (2, SEQLEN), generator=generator)
    hidden = [tuple(torch.randn(2, SEQLEN, width, generator=generator) for _ in range(5)) for width in (8, 12)]
    lesson = Lesson(
        ids, Seen(student, hidden[0]), Seen(teacher, hidden[1]), TopLogits.of(teacher, top, temperature),
        [(1, 1), (2, 2), (3, 3), (4, 4)], torch.tensor([0, 2, 3, 5, 7, 8, 10, 11]),
    )  # fmt: skip
    return lesson, student, teacher


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_is_torchs_where_all_tokens_are_told_apart(temperature) -> None:
    lesson, student, teacher = lesson_of(VOCABULARY, temperature)
    loss = registry.loss.make("kl", {"temperature": temperature, "top": VOCABULARY}).value(lesson)
    p, q = ((x / temperature).log_softmax(-1).flatten(0, 1) for x in (teacher, student))
    wanted = temperature**2 * kl_div(q, p, log_target=True, reduction="batchmean")
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    (mine,) = torch.autograd.grad(loss, student, retain_graph=True)
    (theirs,) = torch.autograd.grad(wanted, student)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_kl_of_fewer_tokens_is_that_of_the_rest_as_one() -> None:
    lesson, student, teacher = lesson_of(7)
    loss = float(registry.loss.make("kl", {"top": 7}).value(lesson).detach())
    p, q = teacher.softmax(-1), student.detach().softmax(-1)
    at = p.topk(7).indices

    def merged(x: torch.Tensor) -> torch.Tensor:
        kept = x.gather(-1, at)
        return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)

    wanted = (merged(p) * (merged(p) / merged(q)).log()).sum(-1).mean()
    assert loss == pytest.approx(float(wanted), rel=1e-4)
    whole, *_ = lesson_of()
    values = [float(registry.loss.make("kl", {"top": k}).value(lesson_of(k)[0]).detach()) for k in (1, 5, 20, 40)]
    assert values == sorted(values)
    assert values[-1] < float(registry.loss.make("kl", {"top": VOCABULARY}).value(whole).detach())


def test_ce_is_the_models_own_loss() -> None:
    model = model_of("llama").eval()
    ids = torch.randint(0, 500, (3, 16))
    output = model(input_ids=ids, labels=ids)
    loss = registry.loss.make("ce").value(Lesson(ids, Seen(output.logits)))
    assert float(loss.detach()) == pytest.approx(float(output.loss.detach()), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(
        float(cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).detach()), rel=1e-6
    )


def test_hidden_compares_the_channels_that_are_left() -> None:
    lesson, *_ = lesson_of()
    loss = float(registry.loss.make("hidden", {"layers": 2}).value(lesson))
    parts = []
    for k in (2, 4):
        theirs = lesson.teacher.hidden[k][..., lesson.channels]
        parts.append((lesson.student.hidden[k] - theirs).square().sum() / theirs.square().sum())
    assert loss == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)
    same = Lesson(lesson.ids, lesson.student, lesson.student, None, lesson.pairs)
    assert float(registry.loss.make("hidden").value(same)) == 0


def test_relations_do_not_see_a_turned_or_scaled_stream() -> None:
    lesson, *_ = lesson_of()
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    turned = tuple(3 * hidden @ turn for hidden in lesson.student.hidden)
    same = Lesson(lesson.ids, lesson.student, Seen(lesson.teacher.logits, turned), None, lesson.pairs)
    loss = registry.loss.make("relations", {"layers": 4})
    assert float(loss.value(same)) == pytest.approx(0, abs=1e-5)
    other = Lesson(lesson.ids, lesson.student, lesson.teacher, None, lesson.pairs)
    assert float(loss.value(other)) > 0.01


@pytest.mark.parametrize("name", list(registry.loss.entries()))
def test_no_loss_sends_gradients_to_the_teacher_and_weights_scale(name) -> None:
    lesson, student, _ = lesson_of()
    for hidden in (*lesson.student.hidden, *lesson.teacher.hidden):
        hidden.requires_grad_()
    one, two = (registry.loss.make(name, {"weight": weight}).value(lesson) for weight in (1.0, 2.0))
    assert float(two.detach()) == pytest.approx(2 * float(one.detach()), rel=1e-6)
    one.backward()
    assert all(hidden.grad is None for hidden in lesson.teacher.hidden)
    assert student.grad is not None or any(hidden.grad is not None for hidden in lesson.student.hidden)


def test_masks_are_those_of_pruned_matrices_and_hold_under_adam_with_momentum() -> None:
    model = model_of("llama")
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.data[torch.rand_like(layer.weight) < 0.5] = 0
    model.lm_head.weight.data[3, :2] = 0
    names = pruned_matrices(model)
    assert names == {"model.layers.0.mlp.up_proj.weight"}
    held = HeldMasks.of(model, names)
    zero = layer.weight == 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        ids = torch.randint(0, 500, (2, 16))
        model(input_ids=ids, labels=ids).loss.backward()
        held.hold_gradients()
        optimiser.step()
        held.hold_weights()
        optimiser.zero_grad()
    assert not layer.weight[zero].any()
    assert layer.weight[~zero].all()
    kept = optimiser.state[layer.weight]
    assert not kept["exp_avg"][zero].any()
    assert not kept["exp_avg_sq"][zero].any()
    assert kept["exp_avg"][~zero].any()


def test_pruned_are_tables_and_single_experts_too() -> None:
    model = nn.Module()
    model.embedding = nn.Embedding(40, 50)
    model.untouched, model.rounded = nn.Embedding(40, 50), nn.Embedding(40, 50)
    model.experts = nn.Parameter(torch.randn(64, 10, 10))
    with torch.no_grad():
        model.untouched.weight[:30] = 0  # tokens that never were seen
        model.embedding.weight[:, :4] = 0
        model.rounded.weight[:, :1] = 0  # as 4-bit grids leave some
        model.experts[3, :5] = 0
    assert pruned_matrices(model) == {"embedding.weight", "experts"}


def test_masks_that_a_wrapper_hides_are_not_passed_over_in_silence() -> None:
    """As FSDP 1 does, which lays all weights of a block into one vector."""
    flat = nn.Module()
    flat.flat_param = nn.Parameter(torch.zeros(64))
    with pytest.raises(UnsupportedModelError, match=r"1 of 1 pruned matrices are hidden .* version 2"):
        HeldMasks.of(flat, frozenset({"block.weight"}))


def test_a_layer_whose_weight_is_read_beside_it_may_be_updated() -> None:
    """As Mamba's projection of time steps is."""
    model = model_of("llama")
    add_low_rank(model, 2, 4.0)
    layer = model.model.layers[0].mlp.up_proj
    nn.init.normal_(layer.up)
    x = torch.randn(3, layer.weight.shape[1])
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), layer(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_low_rank_update_merges_into_what_was_trained(sparse) -> None:
    for family in ("llama", "gpt2"):
        model = model_of(family).eval()
        blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
        matrices = [p for name, p in blocks.named_parameters() if p.dim() == 2 and "norm" not in name]
        for weight in matrices if sparse else []:
            weight.data[torch.rand_like(weight) < 0.5] = 0
        before = {name: value.clone() for name, value in model.state_dict().items()}
        add_low_rank(model, 3, 6.0)
        found = [module for module in model.modules() if isinstance(module, LowRank)]
        assert all((module.mask is not None) == sparse for module in found)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert len(trained) == 2 * len(found)
        ids = torch.randint(0, 500, (2, 16))
        with torch.no_grad():
            dense = model(input_ids=ids).logits
            torch.testing.assert_close(dense, model_with(family, before)(input_ids=ids).logits)
            for module in found:
                module.up.normal_(std=0.05)
            trained_logits = model(input_ids=ids).logits
        assert float((trained_logits - dense).abs().max()) > 1e-3
        merge_low_rank(model)
        assert model.state_dict().keys() == before.keys()
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, trained_logits, rtol=1e-4, atol=1e-5)
        for name, value in model.state_dict().items():
            if sparse and any(value.data_ptr() == weight.data_ptr() for weight in matrices):
                assert torch.equal(value == 0, before[name] == 0)


def model_with(family: str, state: dict[str, torch.Tensor]) -> nn.Module:
    model = model_of(family).eval()
    model.load_state_dict(state)
    return model
