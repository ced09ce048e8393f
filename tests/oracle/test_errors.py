"""The error predicted from the Gram or from a sample is the error measured by running the layer, routers and head too."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from measured import inputs_of, measured
from torch import Tensor

import prunus
from prunus.models.skeleton import find_stacks
from prunus.observe.windows import random_windows
from prunus.stream.sources import MemorySource
from tiny import model_of

SIZE = {"samples": 6, "seqlen": 48}


@pytest.fixture
def windows(tokenizer, text_file: Path) -> Tensor:
    """What ``SIZE`` makes of the calibration text."""
    return random_windows(torch.tensor(tokenizer(text_file.read_text())["input_ids"]), 6, 48, 0, "text")


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_predicted_is_measured(family: str, method: str, sparsity: str, tokenizer, quick, windows) -> None:
    dense = model_of(family)
    pruned = copy.deepcopy(dense)
    routers = ["model.layers.*.mlp.gate"] if family == "mixtral" else []
    settings = {**quick, **SIZE, "include": ["*", *routers], "min_expert_tokens": 1}
    result = prunus.prune(pruned, tokenizer=tokenizer, method=method, sparsity=sparsity, **settings)
    inputs = inputs_of(dense, find_stacks(dense)[0].blocks[0], windows)
    errors = {record["name"]: record for record in result.sites}
    found = MemorySource(dense, torch.device("cpu")).found[0]
    asked = [site for site, _ in found.on_request.values()] if routers else []
    assert bool(asked) == bool(routers)
    for site in [*found.sites, *asked]:
        assert errors[site.name]["error_of"] == ("output" if method == "sparsegpt" else "sample")
        expected = measured(site, dense, pruned, inputs)
        assert errors[site.name]["rel_error"] == pytest.approx(expected, rel=2e-3), site.name


def test_the_head_sees_what_the_pruned_blocks_give(tokenizer, quick, windows) -> None:
    dense = model_of("llama")
    pruned = copy.deepcopy(dense)
    settings = {**quick, **SIZE, "include": ["*", "lm_head"]}
    result = prunus.prune(pruned, tokenizer=tokenizer, method="sparsegpt", **settings)
    head, _ = MemorySource(dense, torch.device("cpu")).outside.on_request["lm_head"]
    (record,) = [site for site in result.sites if site["name"] == "lm_head"]
    assert record["block"] is None
    inputs = inputs_of(pruned, pruned, windows)
    assert record["rel_error"] == pytest.approx(measured(head, dense, pruned, inputs), rel=2e-3)
