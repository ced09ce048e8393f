"""Patterns on projections that are fused in one matrix."""

from __future__ import annotations

import pytest
import torch

import prunus
from prunus.core.errors import RecipeError
from prunus.stream.sources import MemorySource
from tiny import model_of


def matrices(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    source = MemorySource(model, torch.device("cpu"))
    return {site.name: source.matrix(site) for found in source.found for site in found.sites}


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "balanced"])
def test_columns_go_from_all_projections_that_read_them(family, method, tokenizer, quick) -> None:
    model = model_of(family)
    settings = {**quick, "method": method, "pattern": "column", "allocation": "uniform", "own_text": 0}
    result = prunus.prune(model, tokenizer=tokenizer, **settings)
    assert result.sparsity == pytest.approx(0.5, abs=0.02)
    for name, matrix in matrices(model).items():
        kept = (matrix != 0).any(-2)
        assert int(kept.sum()) == kept.numel() // 2, name


def test_blocks_that_would_straddle_interleaved_projections_are_refused(tokenizer, quick) -> None:
    settings = {**quick, "method": "wanda", "allocation": "owl", "pattern": "block:height=4,width=4"}
    with pytest.raises(RecipeError, match=r"gate_up_proj.*the rows of '\w+' and of what is fused with it are interleaved"):
        prunus.prune(model_of("gpt_oss"), tokenizer=tokenizer, **settings)
    result = prunus.prune(model_of("gpt2"), tokenizer=tokenizer, **settings)
    assert result.sparsity == pytest.approx(0.5, abs=0.02)
    single = prunus.prune(model_of("gpt_oss"), tokenizer=tokenizer, **{**settings, "pattern": "block:height=1,width=4"})
    assert single.sparsity == pytest.approx(0.5, abs=0.02)
