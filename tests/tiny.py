"""Tiny random models of many families, the same every time."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 512

LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "initializer_range": 0.2,
}  # fmt: skip
GPT2_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256,
    "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
FALCON_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
LATENT: dict[str, Any] = {
    **LLAMA_LIKE, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
RWKV_LIKE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "rescale_every": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"sliding_window": 32, "head_dim": 8}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**LLAMA_LIKE, "tie_word_embeddings": False}),
    "mistral": ("MistralConfig", {**LLAMA_LIKE, "sliding_window": 32}),
    "qwen2": ("Qwen2Config", LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**LLAMA_LIKE, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**LLAMA_LIKE, **SLIDING}),
    "gemma3": ("Gemma3TextConfig", {**LLAMA_LIKE, **SLIDING, **MIXED}),
    "gemma4": ("Gemma4TextConfig", {
        **LLAMA_LIKE, **SLIDING, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }),
    "phi3": ("Phi3Config", LLAMA_LIKE),
    "opt": ("OPTConfig", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 256, "word_embed_proj_dim": 16, "init_std": 0.2, "bos_token_id": 0, "eos_token_id": 1,
    }),
    "gpt2": ("GPT2Config", GPT2_LIKE),
    "gpt_neox": ("GPTNeoXConfig", {**LLAMA_LIKE, "num_key_value_heads": 4}),
    "falcon": ("FalconConfig", {**FALCON_LIKE, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon_multi_query": ("FalconConfig", {**FALCON_LIKE, "multi_query": True}),
    "falcon_alibi": ("FalconConfig", {
        **FALCON_LIKE, "multi_query": False, "alibi": True, "bias": True, "parallel_attn": False,
    }),
    "bloom": ("BloomConfig", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1,
        "initializer_range": 0.2,
    }),
    "mpt": ("MptConfig", {
        "vocab_size": VOCABULARY, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 256, "initializer_range": 0.2,
    }),
    "gptj": ("GPTJConfig", {**GPT2_LIKE, "rotary_dim": 8}),
    "codegen": ("CodeGenConfig", {**GPT2_LIKE, "rotary_dim": 8}),
    "gpt_neo": ("GPTNeoConfig", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 4, "attention_types": [[["global", "local"], 2]],
        "num_heads": 4, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
    }),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT2_LIKE),
    "persimmon": ("PersimmonConfig", LLAMA_LIKE),
    "olmo2": ("Olmo2Config", LLAMA_LIKE),
    "stablelm": ("StableLmConfig", LLAMA_LIKE),
    "cohere": ("CohereConfig", LLAMA_LIKE),
    "glm4": ("Glm4Config", {**LLAMA_LIKE, "head_dim": 8}),
    "mamba2": ("Mamba2Config", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "num_heads": 8, "head_dim": 8,
        "n_groups": 1,
    }),
    "deepseek_v3": ("DeepseekV3Config", LATENT),
    "rwkv": ("RwkvConfig", RWKV_LIKE),
    "mixtral": ("MixtralConfig", {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("Qwen2MoeConfig", {**LLAMA_LIKE, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_moe": ("Qwen3MoeConfig", {**LLAMA_LIKE, **EXPERTS, "head_dim": 8}),
    "gpt_oss": ("GptOssConfig", {**LLAMA_LIKE, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": ("GraniteMoeConfig", {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_next": ("Qwen3NextConfig", {
        **LLAMA_LIKE, **EXPERTS, "num_hidden_layers": 4, "head_dim": 8, "shared_expert_intermediate_size": 16,
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    }),
    "llama4": ("Llama4TextConfig", {**LLAMA_LIKE, "intermediate_size_mlp": 64, "num_local_experts": 4, "head_dim": 8}),
}  # fmt: skip

ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8}),
    "jamba": ("JambaConfig", {
        **LLAMA_LIKE, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "mamba_d_state": 8, "mamba_dt_rank": 4, "pad_token_id": 0,
    }),
    "recurrent_gemma": ("RecurrentGemmaConfig", LLAMA_LIKE),
    "bart": ("BartConfig", {
        "vocab_size": VOCABULARY, "d_model": 32, "decoder_layers": 3, "encoder_layers": 0, "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "encoder_attention_heads": 4, "init_std": 0.2,
    }),
    "rwkv_rescaled": ("RwkvConfig", {**RWKV_LIKE, "num_hidden_layers": 7, "rescale_every": 3}),
}  # fmt: skip
"""Families with parts that prunus refuses to prune, or that it cannot follow at all."""


def config_of(family: str):
    """A tiny config of a family."""
    import transformers

    name, values = {**FAMILIES, **ODD}[family]
    return getattr(transformers, name)(**values)


def model_of(family: str, dtype: torch.dtype = torch.float32, **changed: Any):
    """A tiny random model of a family, the same every time, with weights large enough to matter; its config ``changed``."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    config = config_of(family)
    for name, value in changed.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for parameter in model.parameters():  # families that ignore initializer_range leave theirs almost zero
        if parameter.dim() >= 2 and float(parameter.detach().float().std()) < 0.05:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def byte_level(text: str):
    """A byte-level byte-pair tokenizer trained on a text, as GPT-2 has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="Ā", pad_token="Ā")


def sentencepiece_like(text: str):
    """Byte-pair entries over characters, spaces as ▁ and bytes for what has no entry, as Llama 2 has them."""
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import LlamaTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>", *pieces], show_progress=False, limit_alphabet=100
    )
    inner.train_from_iterator([line.replace(" ", "▁") for line in text.splitlines()], trainer)
    plain = json.loads(inner.to_str())
    plain["added_tokens"] = plain["added_tokens"][:3]
    again = Tokenizer.from_str(json.dumps(plain))
    return LlamaTokenizerFast(tokenizer_object=again, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
