"""The model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CalibrationError, CheckpointError
from .skeleton import quiet_transformers


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> object:
    """The tokenizer beside the checkpoint.

    Raises:
        CheckpointError: if there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{folder}: no tokenizer can be loaded from it ({reason}). Copy tokenizer.json and tokenizer_config.json there."
        ) from error


def tokenize(tokenizer: Any, text: str, vocabulary: int) -> Tensor:
    """Token ids of a text ``[tokens]``, special tokens as the tokenizer adds them.

    Raises:
        CalibrationError: if an id is outside the model's ``vocabulary``.
    """
    with quiet_transformers():
        ids = torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)
    if len(ids) and int(ids.max()) >= vocabulary:
        raise CalibrationError(
            f"the tokenizer gives id {int(ids.max())}, the model's vocabulary has {vocabulary} entries: "
            "they do not belong together. Put the tokenizer that the model was trained with beside its weights."
        )
    return ids


def plain_ids(config: Any, tokenizer: Any, vocabulary: int) -> Tensor:
    """Every id ``[ids]`` that may stand anywhere in a text: no special tokens, none that the tokenizer does not give."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if name.endswith(("_token_id", "_token_index")):
                special |= {value} if isinstance(value, int) else set(value or ())
    known = min(vocabulary, len(tokenizer)) if tokenizer is not None else vocabulary
    return torch.tensor([number for number in range(known) if number not in special])
