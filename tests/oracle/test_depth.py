"""Which blocks go: against enumeration, the papers' formulas, and models whose blocks are really taken out."""

from __future__ import annotations

import random

import pytest
import torch

import prunus
from prunus.core import registry
from prunus.core.depth import DepthSurvey, Passage
from prunus.core.progress import Silent
from prunus.core.registry import make
from prunus.stream.trunk import Limits
from prunus.structure.depth_survey import loss_without, survey_depth
from prunus.verbs.prepare import open_model


def survey_of(loss, count: int) -> DepthSurvey:
    """A survey of made-up losses: ``loss(blocks that are gone)``."""

    def run() -> Passage:
        raise AssertionError("the loss asks for no hidden states")

    return DepthSurvey(count, run, lambda choices: [loss(frozenset(c)) for c in choices])


@pytest.mark.parametrize("drop", [1, 5, 8, 12])
def test_where_damages_add_up_the_least_harmful_go(drop) -> None:
    """Blocks that were judged long ago are not taken for better than those that were judged with others gone."""
    survey = survey_of(lambda gone: 3.0 + sum(0.1 + 0.01 * block for block in gone), 30)
    assert make(registry.depth, "loss").choose(survey, drop) == list(range(drop))


def test_greedy_looks_at_all_blocks_anew_where_the_shortlist_holds_them() -> None:
    chance = random.Random(0)
    pairs = {frozenset((a, b)): chance.uniform(-0.3, 0.6) for a in range(8) for b in range(a)}
    alone = [chance.uniform(0.1, 1.0) for _ in range(8)]

    def loss(gone: frozenset[int]) -> float:
        return 2 + sum(alone[k] for k in gone) + sum(pairs[frozenset((a, b))] for a in gone for b in gone if b < a)

    gone: list[int] = []
    for _ in range(4):
        gone.append(min((k for k in range(8) if k not in gone), key=lambda k: loss(frozenset((*gone, k)))))
    assert make(registry.depth, "loss:shortlist=8").choose(survey_of(loss, 8), 4) == sorted(gone)
    one_by_one = sorted(range(8), key=lambda k: alone[k])[:4]
    assert make(registry.depth, "loss:greedy=false").choose(survey_of(loss, 8), 4) == sorted(one_by_one)


@pytest.mark.parametrize("budget", [1 << 30, 1])
@torch.no_grad()
def test_the_loss_without_blocks_is_that_of_the_model_that_is_left(budget, checkpoint) -> None:
    """Also where one choice at a time fits in memory."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint("llama")
    windows = torch.randint(0, 512, (3, 16), generator=torch.Generator().manual_seed(1))
    choices = [[], [0], [2], [0, 1], [1]]
    found = loss_without(open_model(folder, prunus.Recipe()), windows, Limits(32, budget), Silent(), choices)
    for gone, loss in zip(choices, found, strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.model.layers = torch.nn.ModuleList(block for k, block in enumerate(model.model.layers) if k not in gone)
        model.config.num_hidden_layers = len(model.model.layers)
        assert loss == pytest.approx(float(model(input_ids=windows, labels=windows, use_cache=False).loss), rel=1e-5)


@torch.no_grad()
def test_influence_and_angle_are_the_papers_formulas(checkpoint) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint("llama")
    windows = torch.randint(0, 512, (3, 16), generator=torch.Generator().manual_seed(1))
    survey = survey_depth(open_model(folder, prunus.Recipe()), windows, Limits(32, 1 << 30), Silent())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    states: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _module, args, output, states=states: states.extend((args[0], output)))
    model(input_ids=windows, use_cache=False)
    entering, leaving = states[0::2], states[1::2]
    cosine = torch.nn.functional.cosine_similarity
    influence = [float((1 - cosine(a, b, dim=-1)).mean()) for a, b in zip(entering, leaving, strict=True)]
    assert torch.allclose(1 - survey.passage.cosine, torch.tensor(influence), atol=1e-5)
    assert make(registry.depth, "influence").choose(survey, 1) == [min(range(3), key=lambda k: influence[k])]
    hidden = [*entering, leaving[-1]]
    angles = [float(torch.arccos(cosine(hidden[k][:, -1], hidden[k + 2][:, -1], dim=-1)).mean()) for k in range(2)]
    start = min(range(2), key=lambda k: angles[k])
    assert make(registry.depth, "angular").choose(survey, 2) == [start, start + 1]
