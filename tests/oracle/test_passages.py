"""Own passages: every token is the one that the whole model's chances and the same random number give."""

from __future__ import annotations

import pytest
import torch
import transformers

import prunus
from prunus.checkpoint.source import Checkpoint
from prunus.core.errors import RecipeError
from prunus.core.progress import Silent
from prunus.models.tokens import plain_ids
from prunus.recipe import Recipe
from prunus.stream.evaluate import forwarded
from prunus.stream.passages import CONTEXT, LENGTH, own_count, with_own_windows, write, written_through
from prunus.stream.sources import MemorySource
from prunus.stream.trunk import Limits
from prunus.verbs.prepare import calibration_windows, open_model
from tiny import VOCABULARY, model_of

CPU = torch.device("cpu")
LIMITS = Limits(256, 1 << 30)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma4"])
def test_every_token_is_drawn_from_the_whole_models_chances(family: str) -> None:
    """By inverse transform sampling: as many ids have smaller cumulative chances as the random number says.

    The chances are those behind the last few tokens alone.
    """
    model, ids, count = model_of(family), torch.arange(5, VOCABULARY), 100
    found = write(MemorySource(model, CPU), count, ids, 3, Limits(64, 0), Silent())
    assert found.shape == (count, LENGTH)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(found[:, 0], ids[torch.randint(0, len(ids), (count,), generator=generator)])
    for k in range(1, LENGTH):
        numbers = torch.cat([torch.rand(len(part), generator=generator) for part in found.split(64)]).double()
        with torch.no_grad():
            logits = model(input_ids=found[:, max(0, k - CONTEXT) : k], use_cache=False).logits[:, -1, ids]
        chances = logits.double().softmax(-1)
        drawn = found[:, k] - ids[0]
        below = (chances * (torch.arange(len(ids)) < drawn[:, None])).sum(-1)
        above = below + chances.gather(1, drawn[:, None])[:, 0]
        assert ((below - 1e-5 <= numbers) & (numbers <= above + 1e-5)).all()


def test_a_checkpoint_writes_what_the_model_in_memory_writes(checkpoint, tokenizer, quick) -> None:
    streamed, model = open_model(checkpoint("llama"), Recipe.of(quick)), MemorySource(model_of("llama"), CPU)
    ids = plain_ids(model.model.config, tokenizer, VOCABULARY)
    one, two = (write(source, 40, ids, 0, LIMITS, Silent()) for source in (streamed, model))
    assert torch.equal(one, two)
    assert torch.equal(one, write(streamed, 40, ids, 0, Limits(256, 0), Silent()))
    assert not torch.equal(one, write(model, 40, ids, 1, LIMITS, Silent()))
    assert set(one.flatten().tolist()) <= set(ids.tolist())


def test_a_model_within_the_budget_is_read_once_and_freed(checkpoint, tokenizer, quick, monkeypatch) -> None:
    source, read = open_model(checkpoint("mixtral"), Recipe.of(quick)), []
    plainly = Checkpoint.read

    def counting(self, name):
        read.append(name)
        return plainly(self, name)

    monkeypatch.setattr(Checkpoint, "read", counting)
    ids = plain_ids(source.model.config, tokenizer, VOCABULARY)
    write(source, 40, ids, 0, LIMITS, Silent())
    assert len(read) == len(set(read))
    assert all(parameter.is_meta for parameter in source.model.parameters())
    write(source, 40, ids, 0, Limits(256, 0), Silent())
    assert len(read) > 2 * len(set(read))


def test_passages_take_the_place_of_the_last_windows(tokenizer, quick) -> None:
    source = MemorySource(model_of("llama"), CPU)
    windows = calibration_windows(source, tokenizer, Recipe.of({**quick, "seqlen": 60}))
    ids = torch.tensor([7])
    mixed = with_own_windows(source, windows, 2, ids, 0, LIMITS, Silent())
    assert mixed.shape == windows.shape
    assert torch.equal(mixed[:-2], windows[:-2])
    assert (mixed[-2:] == 7).all()
    assert own_count(8, 0.25) == 2
    assert own_count(1, 0.9) == 0  # one window at least is text


def test_a_passages_start_is_left_out(tokenizer, quick) -> None:
    source, ids = MemorySource(model_of("llama"), CPU), torch.arange(5, VOCABULARY)
    windows = calibration_windows(source, tokenizer, Recipe.of({**quick, "seqlen": 60}))
    mixed = with_own_windows(source, windows, 2, ids, 0, LIMITS, Silent())
    passages = write(source, 5, ids, 0, LIMITS, Silent())  # 5 · 28 tokens hold 2 · 60
    assert torch.equal(mixed[-2:].flatten(), passages[:, CONTEXT:].flatten()[:120])


def test_tokens_that_go_through_the_model_are_counted(monkeypatch, tokenizer, quick) -> None:
    through = []

    def counting(source, windows, *rest):
        through.append(windows.numel())
        return forwarded(source, windows, *rest)

    monkeypatch.setattr("prunus.stream.passages.forwarded", counting)
    source, ids = MemorySource(model_of("llama"), CPU), torch.arange(5, VOCABULARY)
    windows = calibration_windows(source, tokenizer, Recipe.of({**quick, "seqlen": 60}))
    with_own_windows(source, windows, 2, ids, 0, LIMITS, Silent())
    assert sum(through) == written_through(120)


def test_they_hold_no_special_tokens(tokenizer) -> None:
    config = model_of("llama").config
    ids = set(plain_ids(config, tokenizer, config.vocab_size).tolist())
    special = {config.bos_token_id, config.eos_token_id, *tokenizer.all_special_ids}
    assert ids == set(range(len(tokenizer))) - special
    assert set(plain_ids(config, None, 10_000).tolist()) == set(range(10_000)) - {config.bos_token_id, config.eos_token_id}


def test_a_run_is_calibrated_on_them(checkpoint, tokenizer, quick, tmp_path) -> None:
    """It is the run on token windows that hold the same passages, byte for byte."""
    import numpy as np

    settings = {**quick, "method": "sparsegpt"}
    source, recipe = open_model(checkpoint("llama"), Recipe.of(settings)), Recipe.of(settings)
    windows = calibration_windows(source, tokenizer, recipe)
    ids = plain_ids(source.config, tokenizer, VOCABULARY)
    windows = with_own_windows(source, windows, 4, ids, 0, Limits(recipe.batch_tokens, 0), Silent())
    np.save(tmp_path / "windows.npy", windows.numpy())
    stored = {**settings, "calibration": str(tmp_path / "windows.npy")}
    told = prunus.prune(checkpoint("llama"), tmp_path / "own", **settings, own_text=0.5)
    prunus.prune(checkpoint("llama"), tmp_path / "stored", **stored)
    prunus.prune(checkpoint("llama"), tmp_path / "none", **settings)
    own, same, none = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("own", "stored", "none"))
    assert own == same
    assert own != none
    assert told.record["plan"]["settings"]["calibration"]["own"] == 4


def test_what_writes_no_text_is_left_without_or_refused(tokenizer, quick) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    settings = {**quick, "method": "balanced"}
    told = prunus.prune(transformers.BertModel(config), tokenizer=tokenizer, **settings)
    assert told.record["plan"]["settings"]["calibration"]["own"] == 0
    with pytest.raises(RecipeError, match=r"own_text 0.5: BertModel is no decoder"):
        prunus.prune(transformers.BertModel(config), tokenizer=tokenizer, **settings, own_text=0.5)


def test_shares_that_are_none() -> None:
    for wrong in (1.0, -0.1, True, "much"):
        with pytest.raises(RecipeError, match="must be a share of the windows"):
            Recipe.of({"own_text": wrong})
        with pytest.raises(RecipeError, match="must be a share of the windows"):
            Recipe.of({"method": "magnitude", "own_text": wrong})
    with pytest.raises(RecipeError, match=r"own_text 0.5: method 'magnitude' looks at no text"):
        Recipe.of({"method": "magnitude", "own_text": 0.5})
    assert Recipe.of({"method": "sparsegpt"}).own_share == 0
    assert Recipe.of({"method": "balanced", "own_text": 0}).own_share == 0
    assert Recipe.of({"method": "balanced"}).own_share > 0
