"""Text for language models: windows of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..core.errors import DataError
from ..observe.text import read_text
from ..observe.windows import consecutive_windows
from .examples import Held, Samples
from .source import Source, source

_BYTES = 256
_END = "<|end|>"


@final
@source("text", paper="arXiv:1508.07909", cost="a tokenizer is trained first, seconds a megabyte")
@dataclass(frozen=True)
class Text(Source):
    """Windows of a text, in the tokens of a byte-level byte-pair tokenizer that is trained on its training part."""

    text: str = "factbook"
    """Text file, folder, JSONL, Parquet or dataset id, as ``--calibration`` takes it."""
    held_out: str = ""
    """Another text to judge on; without it the end of the first is."""
    test_share: float = 0.1
    """Share of the text that is judged on, where no other is given."""
    seqlen: int = 256
    """Tokens of a window."""
    vocabulary: int = 4096
    """Entries of the tokenizer, the 256 bytes and the end of a text among them."""

    def __post_init__(self) -> None:
        if self.vocabulary <= _BYTES or self.seqlen < 2 or not 0 < self.test_share < 1:
            raise ValueError(
                f"vocabulary {self.vocabulary} must be above {_BYTES}, seqlen {self.seqlen} at least 2, "
                f"test_share {self.test_share} between 0 and 1"
            )

    def open(self) -> Samples:
        whole = read_text(self.text)
        cut = len(whole) if self.held_out else round((1 - self.test_share) * len(whole))
        train, test = whole[:cut], read_text(self.held_out) if self.held_out else whole[cut:]
        tokenizer = byte_pairs(train, self.vocabulary)
        splits = [_windows(tokenizer, part, self.seqlen, self.text) for part in (train, test)]
        return Samples(self.text, splits[0], splits[1], self.vocabulary, tokenizer=tokenizer)


def byte_pairs(text: str, vocabulary: int) -> str:
    """A byte-level byte-pair tokenizer trained on a text, as JSON; token 0 ends a text.

    Raises:
        DataError: if the text is too short for so many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=[_END], show_progress=False
    )
    made.train_from_iterator([text], trainer)
    if made.get_vocab_size() != vocabulary:
        raise DataError(
            f"the text gives {made.get_vocab_size()} entries of a vocabulary, not {vocabulary}: it is too short. Give more "
            "text, or a smaller vocabulary."
        )
    return made.to_str()


def _windows(tokenizer: str, text: str, seqlen: int, where: str) -> Held:
    from tokenizers import Tokenizer

    ids: Tensor = torch.tensor(Tokenizer.from_str(tokenizer).encode(text).ids, dtype=torch.int64)
    windows = consecutive_windows(ids, seqlen, where)
    return Held(windows, windows)
