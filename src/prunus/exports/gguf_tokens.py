"""A tokenizer as llama.cpp keeps it: entries, their kinds, merges or scores, and how text is split before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import CheckpointError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
"""llama.cpp's kinds of entries."""
_SPACE = "▁"
_SPLITS = ("llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o")
"""Names that llama.cpp has for ways to split text, of which Transformers knows the expression."""


def tokenizer_fields(tokenizer: Any, vocabulary: int) -> tuple[dict[str, Any], list[str]]:
    """Keys of the file (without ``tokenizer.`` before them) and their values, and remarks.

    ``vocabulary`` is the model's; entries beyond the tokenizer's are marked as unused, the tokenizer's beyond it left out.

    Raises:
        UnsupportedModelError: if llama.cpp has no such tokenizer, or splits text in no such way.
        CheckpointError: if there is no tokenizer.
    """
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            "no tokenizer.json is beside the weights, and a GGUF file has the tokenizer in it. Copy it there."
        )
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    if told["model"]["type"] != "BPE":
        raise UnsupportedModelError(f"a {told['model']['type']} tokenizer: GGUF files are written of byte-pair ones alone.")
    remarks = []
    if len(tokenizer) > vocabulary:
        remarks.append(
            f"{len(tokenizer) - vocabulary} entries of the tokenizer are beyond the model's {vocabulary}: left out."
        )
    tokens, kinds = _entries(tokenizer, told, vocabulary)
    fields: dict[str, Any] = {"ggml.tokens": tokens, "ggml.token_type": kinds}
    if told["model"].get("byte_fallback"):
        fields |= {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": _scores(told, tokens),
                   "ggml.add_space_prefix": _adds_space(told)}  # fmt: skip
    else:
        fields |= {"ggml.model": "gpt2", "ggml.pre": split_name(told), "ggml.merges": _merges(told)}
        if told["normalizer"] is not None:
            remarks.append(f"llama.cpp does not normalise text ({told['normalizer']['type']}) before it splits it.")
    fields |= _special(tokenizer, vocabulary)
    if tokenizer.chat_template:
        fields["chat_template"] = _template(tokenizer.chat_template)
    return fields, remarks


def _entries(tokenizer: Any, told: Mapping[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """All entries by id, and of which kind each is."""
    added = {entry["id"]: entry for entry in told["added_tokens"]}
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    unknown, tokens, kinds = tokenizer.unk_token_id, [], []
    for number in range(vocabulary):
        text = by_id.get(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        if text is None:
            kinds.append(UNUSED)
        elif number == unknown and told["model"].get("byte_fallback"):
            kinds.append(UNKNOWN)
        elif number in added:
            kinds.append(CONTROL if added[number]["special"] else USER)
        else:
            kinds.append(BYTE if told["model"].get("byte_fallback") and _is_byte(text) else NORMAL)
    return tokens, kinds


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _pairs(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [tuple(merge if isinstance(merge, list) else merge.split(" ", 1)) for merge in told["model"]["merges"]]


def _merges(told: Mapping[str, Any]) -> list[str]:
    return [" ".join(pair) for pair in _pairs(told)]


def _scores(told: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """What an entry is worth to llama.cpp, which joins what gives the best one: minus the rank of its first merge."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_pairs(told)):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def _adds_space(told: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text."""
    parts = [part for key in ("normalizer", "pre_tokenizer") for part in _parts(told[key])]
    return any(part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme") != "never")
               for part in parts)  # fmt: skip


def _parts(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A step of the tokenizer, or the steps of a sequence."""
    if part is None:
        return []
    return list(part.get("pretokenizers") or part.get("normalizers") or [part])


def split_name(told: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which a byte-level tokenizer splits text.

    Raises:
        UnsupportedModelError: if none of those that are known here is it.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    parts = _parts(told["pre_tokenizer"])
    kinds = [part["type"] for part in parts]
    last = parts[-1] if parts else {}
    if kinds and kinds[-1] == "ByteLevel" and not last["add_prefix_space"]:
        if kinds == ["ByteLevel"] and last["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and last["use_regex"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and parts[0]["behavior"] == "Isolated" and not last["use_regex"]:
            for name in _SPLITS:
                if parts[0]["pattern"].get("Regex") == GGUF_PRE_TOKENIZER_SPLITS[name]:
                    return name
    raise UnsupportedModelError(
        f"the tokenizer splits text in a way ({', '.join(kinds) or 'not at all'}) that is none of "
        f"{', '.join(KNOWN_SPLITS)}, by which llama.cpp knows them. Convert the model with llama.cpp's own script."
    )


KNOWN_SPLITS = ("gpt-2", "smollm", *_SPLITS)


def reader_splits_alike(fields: Mapping[str, Any]) -> bool:
    """Whether Transformers' GGUF reader splits text as the file says; what it has no expression for it splits as GPT-2."""
    return bool(fields["ggml.pre"] != "smollm")


def _special(tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    """Ids of special tokens, and which of them the tokenizer adds to every text."""
    named = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unknown": tokenizer.unk_token_id,
             "padding": tokenizer.pad_token_id}  # fmt: skip
    found: dict[str, Any] = {f"ggml.{name}_token_id": number for name, number in named.items()
                             if number is not None and number < vocabulary}  # fmt: skip
    ids = tokenizer("a")["input_ids"]
    found["ggml.add_bos_token"] = bool(ids) and named["bos"] is not None and ids[0] == named["bos"]
    found["ggml.add_eos_token"] = bool(ids) and named["eos"] is not None and ids[-1] == named["eos"]
    return found


def _template(template: Any) -> str:
    """The default chat template."""
    if isinstance(template, str):
        return template
    return str(template["default"] if isinstance(template, dict) else template[0]["template"])
