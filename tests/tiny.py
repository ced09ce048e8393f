"""Tiny random models of several families, the same every time."""

from __future__ import annotations

import torch

VOCABULARY = 512


def config_of(family: str):
    """A tiny config of a family."""
    import transformers

    llama_like = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    if family == "llama":
        return transformers.LlamaConfig(**llama_like, tie_word_embeddings=False)
    if family == "mixtral":
        return transformers.MixtralConfig(**llama_like, num_local_experts=4, num_experts_per_tok=2)
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1,
        initializer_range=0.2,
    )  # fmt: skip


def model_of(family: str, dtype: torch.dtype = torch.float32):
    """A tiny random model of a family, the same every time."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config_of(family)).to(dtype).eval()
