"""Export to GGUF: what is read back is the model, whatever llama.cpp calls its parts; what cannot be said is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

import prunus
from prunus.core.errors import CheckpointError, OutputError, ProofError, RecipeError, UnsupportedModelError
from prunus.exports.gguf_tokens import split_name, tokenizer_fields
from tiny import VOCABULARY, model_of, sentencepiece_like

gguf = pytest.importorskip("gguf")

GEMMA = {"query_pre_attn_scalar": 8}
SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
BIASED = {"attention_bias": True, "mlp_bias": True}

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, biases": ("llama", BIASED),
    "llama, wide heads": ("llama", {"head_dim": 16}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, wide heads": ("qwen2", {"head_dim": 16}),
    "qwen3": ("qwen3", {}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": YARN}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True, "moe_intermediate_size": 32}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3", {**GEMMA, **SIX}),
}
"""All that was run in llama.cpp too, whose greedy tokens are Transformers' (benchmarks/llama_cpp.py --tiny)."""


@pytest.fixture
def save(tokenizer, tmp_path):
    """``save(family, **changed)``: the folder of a tiny model, its config changed, biases that matter."""

    def make(family: str, dtype: torch.dtype = torch.float32, **changed: Any) -> Path:
        model = model_of(family, dtype, **changed)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path / f"{family} model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("way", WAYS)
def test_transformers_reads_the_same_model(way: str, save, tmp_path) -> None:
    family, changed = WAYS[way]
    told = prunus.export(save(family, **changed), tmp_path / "out", to="gguf")
    (check,) = told.checks
    assert check.largest <= 1e-5 * check.scale
    assert check.rounding == 0
    assert check.agreement == 1
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["model.gguf", "prunus.json"]
    record = json.loads((tmp_path / "out" / "prunus.json").read_text())
    assert record["checks"][0]["largest"] == check.largest


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_weights_are_rounded_as_far_as_the_dtype_says(dtype: str, save, tmp_path) -> None:
    told = prunus.export(save("llama"), tmp_path / "out", to="gguf", dtype=dtype)
    assert 0.5 < told.checks[0].rounding <= 1
    assert told.checks[0].kl < 0.2
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    short = {"float16": "F16", "bfloat16": "BF16"}.get(dtype, dtype.upper())
    assert kinds["blk.1.ffn_down.weight"] == short
    assert kinds["blk.1.ffn_norm.weight"] == "F32"
    assert kinds["token_embd.weight"] == (short if dtype.endswith("16") else "Q8_0")


def test_a_qwen2_with_other_heads_is_a_llama_with_biases(save, tmp_path) -> None:
    told = prunus.export(save("qwen2", head_dim=16), tmp_path / "out", to="gguf", dtype="q8_0")
    assert told.layout == "GGUF llama, q8_0"
    assert any("Written as a Llama with biases, which is the same" in note for note in told.notes)
    assert 0.5 < told.checks[0].rounding <= 1


def test_the_stored_dtype_is_kept_to_the_bit(save, tmp_path) -> None:
    told = prunus.export(save("qwen3", torch.bfloat16), tmp_path / "out", to="gguf")
    assert told.layout == "GGUF qwen3, bfloat16"
    assert told.checks[0].largest <= 1e-5 * told.checks[0].scale
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    own = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "qwen3 model", dtype=torch.float32)
    stored = gguf.dequantize(read["blk.2.attn_k.weight"].data, read["blk.2.attn_k.weight"].tensor_type)
    assert np.array_equal(stored, own.model.layers[2].self_attn.k_proj.weight.detach().numpy())


def test_a_cut_model_is_exported_and_read_by_prunus_itself(checkpoint, quick, tmp_path) -> None:
    """Heads, neurons, width and depth: a width of heads that is not the hidden width over their number."""
    settings = {key: quick[key] for key in ("calibration", "samples", "seqlen")}
    prunus.shrink(
        checkpoint("llama"), tmp_path / "cut", heads=2, neurons=32, width=24, layers=-1, eval_windows=0, **settings
    )
    told = prunus.export(tmp_path / "cut", tmp_path / "out", to="gguf", dtype="q8_0")
    assert any("do not divide into blocks of 32: stored in float16" in note for note in told.notes)
    one = prunus.evaluate(tmp_path / "cut", quick["eval_text"], seqlen=64, windows=2).perplexity
    other = prunus.evaluate(tmp_path / "out" / "model.gguf", quick["eval_text"], seqlen=64, windows=2).perplexity
    assert other == pytest.approx(one, rel=0.02)
    assert json.loads((tmp_path / "out" / "prunus.json").read_text())["source"]["kind"] == "shrink"


def test_a_packed_checkpoint_is_exported_as_what_it_unpacks_to(checkpoint, quick, tmp_path) -> None:
    prunus.prune(checkpoint("qwen3"), tmp_path / "pruned", **quick, method="magnitude", sparsity=0.5)
    prunus.pack(tmp_path / "pruned", tmp_path / "packed")
    prunus.export(tmp_path / "pruned", tmp_path / "one", to="gguf")
    prunus.export(tmp_path / "packed", tmp_path / "other", to="gguf")
    one, other = (gguf.GGUFReader(tmp_path / name / "model.gguf").tensors for name in ("one", "other"))
    assert all(np.array_equal(a.data, b.data) for a, b in zip(one, other, strict=True))


def test_a_sliding_window_that_llama_cpp_does_not_know_ends_the_context(save, tmp_path) -> None:
    (note,) = prunus.export(save("mistral", sliding_window=32), tmp_path / "out", to="gguf").notes
    assert "its context ends at 32 tokens" in note
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["llama.context_length"].contents() == 32


def test_overwrite_replaces_an_earlier_export_and_nothing_else(save, tmp_path) -> None:
    model = save("llama")
    prunus.export(model, tmp_path / "out", to="gguf")
    with pytest.raises(OutputError, match="exists already"):
        prunus.export(model, tmp_path / "out", to="gguf")
    prunus.export(model, tmp_path / "out", to="gguf", dtype="q8_0", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.gguf").write_text("another's")
    with pytest.raises(OutputError, match="neither a checkpoint nor an empty folder"):
        prunus.export(model, tmp_path / "other", to="gguf", overwrite=True)


@pytest.mark.parametrize(("family", "changed", "match"), [
    ("phi3", {}, "model type 'phi3': GGUF is written of llama"),
    ("llama", {"hidden_act": "gelu"}, "its activation is gelu, not silu"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaled by 'dynamic'"),
    ("gemma2", {}, "attention is scaled by 1/√256, not 1/√8"),
    ("gemma3", GEMMA, "not every 6th of its blocks alone looks at all tokens"),
    ("qwen3", {"attention_bias": True}, "llama.cpp's qwen3 has no place for 'model.layers.0.self_attn.q_proj.bias'"),
    ("qwen3_moe", {}, "its experts' shares are not normed"),
])  # fmt: skip
def test_what_gguf_cannot_say_is_refused(family: str, changed: dict, match: str, save, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        prunus.export(save(family, **changed), tmp_path / "out", to="gguf")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_bad_settings_are_refused_in_words(save, tmp_path) -> None:
    model = save("llama")
    with pytest.raises(RecipeError, match=r"no format 'ggfu' to export to \(did you mean 'gguf'\?\)"):
        prunus.export(model, tmp_path / "out", to="ggfu")
    with pytest.raises(RecipeError, match=r"no dtype 'q8' in GGUF"):
        prunus.export(model, tmp_path / "out", to="gguf", dtype="q8")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer.json is beside the weights"):
        prunus.export(model, tmp_path / "out", to="gguf")


def test_a_file_that_is_not_the_model_is_never_given_its_name(save, tmp_path, monkeypatch) -> None:
    """One row of one matrix is written in another's place."""
    quantize = gguf.quantize
    monkeypatch.setattr(
        "gguf.quantize", lambda values, kind: quantize(values[::-1].copy() if values.ndim == 2 else values, kind)
    )
    with pytest.raises(ProofError, match="more than rounding explains"):
        prunus.export(save("llama"), tmp_path / "out", to="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["llama model"]


def test_a_hyperparameter_that_is_wrong_shows_in_the_logits(save, tmp_path, monkeypatch) -> None:
    from prunus.exports import gguf as exporter

    right = exporter.hyperparameters
    monkeypatch.setattr(exporter, "hyperparameters", lambda config: {**right(config), "rope.freq_base": 5e5})
    for dtype in ("auto", "q8_0"):
        with pytest.raises(ProofError, match="computes other logits than the model"):
            prunus.export(save("llama"), tmp_path / "out", to="gguf", dtype=dtype)
    assert not (tmp_path / "out").exists()


def told(**parts: Any) -> dict[str, Any]:
    """What tokenizers says of itself, with this pre-tokenizer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = parts["pre"]
    return json.loads(inner.to_str())


def test_ways_to_split_text_have_llama_cpps_names() -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert split_name(told(pre=byte_level)) == "gpt-2"
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert split_name(told(pre=pre_tokenizers.Sequence([digits, byte_level]))) == "smollm"
    for name in ("llama-bpe", "qwen2", "tekken", "gpt-4o"):
        split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        assert split_name(told(pre=pre_tokenizers.Sequence([split, plain]))) == name
    with pytest.raises(UnsupportedModelError, match="none of gpt-2, smollm"):
        split_name(told(pre=pre_tokenizers.Whitespace()))


def test_entries_have_their_kinds(tokenizer) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="Ā")
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    fields, remarks = tokenizer_fields(tokenizer, VOCABULARY + 3)
    assert fields["ggml.tokens"][VOCABULARY:] == ["<think>", f"[PAD{VOCABULARY + 1}]", f"[PAD{VOCABULARY + 2}]"]
    assert fields["ggml.token_type"][VOCABULARY:] == [4, 5, 5]
    assert fields["ggml.token_type"][tokenizer.eos_token_id] == 3
    assert remarks == []
    fields, remarks = tokenizer_fields(tokenizer, VOCABULARY)
    assert len(fields["ggml.tokens"]) == VOCABULARY
    assert remarks == [f"1 entries of the tokenizer are beyond the model's {VOCABULARY}: left out."]


def test_sentencepiece_like_tokenizers_are_kept(save, text, tmp_path) -> None:
    """By the scores of their entries; the export itself compares what Transformers makes of them."""
    folder = save("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    sentencepiece_like(text).save_pretrained(folder)
    prunus.export(folder, tmp_path / "out", to="gguf")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:3] == [2, 3, 3]
    assert kinds[3:259] == [6] * 256


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["auto", "q8_0"])
def test_the_real_model(dtype: str, smollm, tmp_path) -> None:
    (check,) = prunus.export(smollm, tmp_path / "out", to="gguf", dtype=dtype).checks
    assert check.largest <= (1e-5 if dtype == "auto" else 0.1) * check.scale
    assert check.kl < 0.01
