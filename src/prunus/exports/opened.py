"""A checkpoint as a whole model in memory, with a few real tokens to run it on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.errors import CheckpointError, ResourceError, UnsupportedModelError
from ..measure.memory import available_memory_bytes
from ..models.reload import reload_bytes
from ..models.tokens import load_tokenizer, plain_ids, tokenize
from ..observe.text import read_text
from ..stream.sources import CheckpointSource
from .written import Request

WINDOWS, TOKENS = 2, 24


@dataclass(frozen=True)
class Opened:
    """A causal language model in fp32 on the CPU; of a packed checkpoint what it unpacks to."""

    source: CheckpointSource
    tokenizer: Any
    trust_remote_code: bool

    @property
    def model(self) -> Any:
        return self.source.model

    @property
    def checkpoint(self) -> Checkpoint:
        return self.source.checkpoint

    @property
    def plain_bytes(self) -> int:
        """Bytes of all tensors as the checkpoint stores them, or unpacks them to."""
        return sum(entry.nbytes for shard in self.checkpoint.shards for entry in shard.entries.values())

    @property
    def stored_dtype(self) -> torch.dtype:
        """What most of the model's weights are stored in."""
        sizes: dict[torch.dtype, int] = {}
        for entry in (entry for shard in self.checkpoint.shards for entry in shard.entries.values()):
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
        return max(sizes, key=lambda dtype: sizes[dtype])

    @cached_property
    def ids(self) -> Tensor:
        """Tokens ``[windows tokens]`` to run it on."""
        return real_ids(self.model.config, self.tokenizer)

    @cached_property
    @torch.inference_mode()
    def logits(self) -> Tensor:
        """The model's own logits ``[windows tokens vocabulary]`` on :attr:`ids`."""
        return self.model(input_ids=self.ids, use_cache=False).logits.float()  # type: ignore[no-any-return]


def real_ids(config: Any, tokenizer: Any) -> Tensor:
    """Tokens ``[windows tokens]`` of the embedded text; where there is no tokenizer, random ones."""
    vocabulary = int(config.get_text_config().vocab_size)
    if tokenizer is not None:
        found = tokenize(tokenizer, read_text("factbook-heldout")[:4000], vocabulary)[: WINDOWS * TOKENS]
        if len(found) == WINDOWS * TOKENS:
            return found.reshape(WINDOWS, TOKENS)
    known = plain_ids(config, tokenizer, vocabulary)
    return known[torch.randint(len(known), (WINDOWS, TOKENS), generator=torch.Generator().manual_seed(0))]


def tokenizer_or_none(request: Request) -> Any:
    """The tokenizer beside the checkpoint, where there is one."""
    try:
        return load_tokenizer(request.folder, request.trust_remote_code)
    except CheckpointError:
        return None


def opened(request: Request, copies: float) -> Opened:
    """The whole model of a request, with room for so many ``copies`` of its weights in fp32 beside it.

    Raises:
        CheckpointError, UnsupportedModelError: if the model cannot be read, or predicts no next tokens.
        ResourceError: if that does not fit in memory.
    """
    checkpoint = Checkpoint.open(request.folder)
    needed = int((1 + copies) * reload_bytes(checkpoint))
    if needed > available_memory_bytes():
        raise ResourceError(
            f"{request.folder}: writing the model and loading what was written takes about {needed / 1e9:.1f} GB of "
            f"memory, {available_memory_bytes() / 1e9:.1f} GB are free."
        )
    device = torch.device("cpu")
    source = CheckpointSource(checkpoint, torch.float32, device, trust_remote_code=request.trust_remote_code)
    if not source.continues_text:
        raise UnsupportedModelError(
            f"{request.folder}: {type(source.model).__name__} predicts no next tokens. Only models that do are exported."
        )
    for index in range(len(source.blocks)):
        source.load(index)
    source.load_outside(head=True)
    return Opened(source, tokenizer_or_none(request), request.trust_remote_code)
