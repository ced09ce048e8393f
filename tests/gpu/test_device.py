"""The same run on a GPU gives what the CPU gives, within float error."""

from __future__ import annotations

import pytest
import torch

import prunus


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_cpu_and_gpu_agree(family, method, checkpoint, quick, tmp_path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        result = prunus.prune(checkpoint(family), tmp_path / device, method=method, device=device, dtype="float32", **quick)
        found[device] = result
    for one, two in zip(found["cpu"].sites, found["cuda"].sites, strict=True):
        assert one["sparsity"] == two["sparsity"]
        assert one["rel_error"] == pytest.approx(two["rel_error"], rel=0.02)
    assert found["cpu"].perplexity["pruned"] == pytest.approx(found["cuda"].perplexity["pruned"], rel=0.02)
    assert torch.cuda.max_memory_allocated() > 0
