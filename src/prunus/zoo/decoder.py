"""A small decoder."""

from __future__ import annotations

from typing import Literal

from torch import nn


def decoder(vocabulary: int = 4096, layers: int = 6, width: int = 256, heads: int = 8, positions: int = 512,
            attention: Literal["sdpa", "eager"] = "sdpa") -> nn.Module:  # fmt: skip
    """A Llama-shaped language model (arXiv:2302.13971) of transformers' own class, small enough to be trained on a CPU;
    feed-forwards of 8/3 of the width, embedding and head tied. ``eager`` ``attention`` trains faster on CPUs.

    Inputs ``input_ids [n tokens]``, ``.logits [n tokens vocabulary]``; 5,868,800 parameters as it is.

    Raises:
        ValueError: if ``width`` is no multiple of ``2 * heads``, which rotary positions want.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if width % (2 * heads):
        raise ValueError(f"decoder: width {width} is no multiple of twice its {heads} heads, which rotary positions need")
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=-(-8 * width // 3 // 64) * 64, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=positions, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=None, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(attention)
    return model
