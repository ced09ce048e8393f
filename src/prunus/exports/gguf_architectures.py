"""What llama.cpp calls the parts of a model, and how it keeps them: one entry an architecture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UnsupportedModelError

Value = bool | int | float | str


class Piece(NamedTuple):
    """A tensor of a GGUF file: its name there, the parameter that it is made of, and how."""

    name: str
    parameter: str
    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a model type: its ``name`` there, and what it keeps or takes for granted otherwise.

    ``rotates_pairs``: rows of queries and keys stand so that the two that are rotated together are neighbours.
    ``norms_from_one``: gains of norms are stored as what they are, not as what they are above one.
    """

    name: str
    activation: str = "silu"
    rotates_pairs: bool = False
    norms_from_one: bool = False
    biased: tuple[str, ...] = ()
    """What may have a bias."""
    alternates: int = 0
    """Of so many blocks the last looks at all tokens, the others at a window; 0: all look at all."""


_ATTENTION = ("attn_q", "attn_k", "attn_v")
_FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")
ARCHITECTURES = {
    "llama": Architecture("llama", rotates_pairs=True, biased=(*_ATTENTION, "attn_output", *_FEED_FORWARD)),
    "mistral": Architecture("llama", rotates_pairs=True),
    "qwen2": Architecture("qwen2", biased=_ATTENTION),
    "qwen3": Architecture("qwen3"),
    "qwen3_moe": Architecture("qwen3moe"),
    "gemma2": Architecture("gemma2", "gelu_pytorch_tanh", norms_from_one=True, alternates=2),
    "gemma3_text": Architecture("gemma3", "gelu_pytorch_tanh", norms_from_one=True, alternates=6),
}


def architecture_of(config: Any) -> Architecture:
    """The architecture of a model.

    Raises:
        UnsupportedModelError: if it has none here, or says something that llama.cpp would take otherwise.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise UnsupportedModelError(
            f"model type '{config.model_type}': GGUF is written of {', '.join(ARCHITECTURES)}. Export it --to onnx or "
            "torch-export, or convert it with llama.cpp's own script."
        )
    if _as_llama(config):
        found = ARCHITECTURES["llama"]
    faults = list(_faults(config, found))
    if faults:
        raise UnsupportedModelError(f"llama.cpp's {found.name} cannot be told what this model does: {'; '.join(faults)}.")
    return found


def _as_llama(config: Any) -> bool:
    """Whether it is a Qwen2 that llama.cpp knows as a Llama with biases alone: its heads are not as wide together as its
    channels."""
    return bool(config.model_type == "qwen2" and head_dim(config) * config.num_attention_heads != config.hidden_size)


def _faults(config: Any, architecture: Architecture) -> Iterator[str]:
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in (architecture.activation, {"silu": "swish"}.get(architecture.activation)):
        yield f"its activation is {activation}, not {architecture.activation}"
    for kind, rope in _ropes(config).items():
        if rope.get("rope_type", "default") not in ("default", "linear", "llama3", "yarn"):
            yield f"its positions are scaled by '{rope['rope_type']}'"
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            yield f"it rotates {rope['partial_rotary_factor']:.0%} of a head"
        if rope.get("rope_type") == "yarn" and any(
            rope.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim")
        ):
            yield "it has an attention factor of its own with yarn"
        if kind == "sliding_attention" and (rope["rope_theta"] != 10000.0 or rope.get("rope_type", "default") != "default"):
            yield f"its sliding attention rotates by {rope['rope_theta']}, not 10000"
    yield from _kind_faults(config, architecture)


def _kind_faults(config: Any, architecture: Architecture) -> Iterator[str]:
    """What differs between blocks, and what one model type alone has."""
    kinds, every = getattr(config, "layer_types", None) or [], architecture.alternates
    usual = ["full_attention" if not every or (k + 1) % every == 0 else "sliding_attention" for k in range(len(kinds))]
    if architecture.alternates and kinds != usual:
        yield f"not every {every}th of its blocks alone looks at all tokens (layer_types {', '.join(kinds)})"
    if not architecture.alternates and "sliding_attention" in kinds and config.model_type != "mistral":
        yield "some of its blocks look at a window of tokens"
    scale = getattr(config, "query_pre_attn_scalar", None)
    if scale is not None and scale != head_dim(config):
        yield f"attention is scaled by 1/√{scale}, not 1/√{head_dim(config)}"
    if config.model_type == "qwen3_moe" and not (config.norm_topk_prob and config.decoder_sparse_step == 1 and
                                                 not config.mlp_only_layers):  # fmt: skip
        yield "its experts' shares are not normed, or some blocks have no experts"


def head_dim(config: Any) -> int:
    """Width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Rotary parameters by the kind of attention; one alone has the name ""."""
    found = config.rope_parameters
    return dict(found) if isinstance(next(iter(found.values())), dict) else {"": found}


def hyperparameters(config: Any) -> dict[str, Value]:
    """Keys of the file, without the architecture's name before them, and their values."""
    width, rope = head_dim(config), _ropes(config).get("full_attention") or next(iter(_ropes(config).values()))
    window = getattr(config, "sliding_window", None)
    found: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope.get("rope_type") == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        found |= {"rope.scaling.original_context_length": int(original)}
    if config.model_type == "mistral" and window:
        found["context_length"] = min(window, config.max_position_embeddings)
    if config.model_type.startswith("gemma"):
        found["attention.sliding_window"] = int(config.sliding_window)
        caps = {key: getattr(config, key, None) for key in ("attn_logit_softcapping", "final_logit_softcapping")}
        found |= {key: float(cap) for key, cap in caps.items() if cap}
    if config.model_type == "qwen3_moe":
        found |= {"expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok,
                  "expert_feed_forward_length": config.moe_intermediate_size}  # fmt: skip
    strange = sorted(key for key, value in found.items() if not isinstance(value, bool | int | float | str))
    if strange:
        raise UnsupportedModelError(f"the config's {', '.join(strange)} is no single number: GGUF has one for all blocks.")
    return found


def remarks(config: Any) -> list[str]:
    """What llama.cpp does otherwise, although the file says all that it can."""
    window = getattr(config, "sliding_window", None)
    if _as_llama(config):
        heads = f"{config.num_attention_heads} heads of {head_dim(config)}"
        return [
            f"Written as a Llama with biases, which is the same: llama.cpp has no Qwen2 whose {heads} are not its channels."
        ]
    if config.model_type == "mistral" and window and window < config.max_position_embeddings:
        return [
            f"llama.cpp has no sliding window for this model: its context ends at {window} tokens, where it would begin."
        ]
    return []


def pieces(model: Any, architecture: Architecture) -> list[Piece]:
    """All tensors of the file, of a causal language model.

    Raises:
        UnsupportedModelError: naming a parameter that llama.cpp has no place for.
    """
    import gguf

    config = model.config
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    found = []
    for parameter, value in model.named_parameters(remove_duplicate=False):
        if (
            head.weight is table.weight
            and value is head.weight
            and model.get_submodule(parameter.removesuffix(".weight")) is head
        ):
            continue  # a head that is the embedding is not stored
        if parameter.endswith(".mlp.experts.gate_up_proj"):
            block = names.get_name(parameter.replace("gate_up_proj", "gate_proj"))
            for part, half in (("gate", 0), ("up", 1)):
                found.append(Piece(f"{str(block).replace('_gate_', f'_{part}_')}.weight", parameter, _half(half)))
            continue
        stem, suffix = re.fullmatch(r"(.*?)(\.weight|\.bias)?", parameter).groups()  # type: ignore[union-attr]
        name = names.get_name(stem)
        if name is None or (suffix == ".bias" and name.rpartition(".")[2] not in architecture.biased):
            raise UnsupportedModelError(f"llama.cpp's {architecture.name} has no place for '{parameter}'.")
        found.append(Piece(f"{name}{suffix or '.weight'}", parameter, _kept(config, architecture, name)))
    return found


def _kept(config: Any, architecture: Architecture, name: str) -> Callable[[Tensor], Tensor]:
    """How llama.cpp keeps a tensor of this name."""
    if architecture.rotates_pairs and name.endswith((".attn_q", ".attn_k")):
        heads = config.num_attention_heads if name.endswith("_q") else config.num_key_value_heads
        return lambda tensor: _paired(tensor, heads)
    if architecture.norms_from_one and name.endswith("_norm"):
        return lambda tensor: tensor + 1
    return lambda tensor: tensor


def _paired(tensor: Tensor, heads: int) -> Tensor:
    """Rows k and k + width/2 of each head, which are rotated together, as neighbours.

    >>> _paired(torch.arange(8), heads=2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)  # type: ignore[no-any-return]


def _half(which: int) -> Callable[[Tensor], Tensor]:
    """The first or second half of what every expert's gate and up are stacked to, ``[experts 2·width hidden]``."""
    return lambda tensor: tensor.chunk(2, dim=1)[which]


def zero_biases(config: Any) -> list[str]:
    """Biases of zeros that a Qwen2 has to have in a file that says it is a Llama."""
    return [f"blk.{block}.attn_output.bias" for block in range(config.num_hidden_layers)] if _as_llama(config) else []


def frequency_factors(model: Any) -> Tensor | None:
    """By what rotary frequencies are divided ``[width/2]`` where that differs between them (Llama 3); else None."""
    rope = next(iter(_ropes(model.config).values()))
    if rope.get("rope_type") != "llama3":
        return None
    scaled = model.base_model.rotary_emb.inv_freq.float()
    exponents = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float64) / (2 * len(scaled))
    return (rope["rope_theta"] ** -exponents / scaled.double()).float()  # type: ignore[no-any-return]
