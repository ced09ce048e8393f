"""generate: what a model says, packed or plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from ..core.errors import RecipeError
from ..core.progress import Progress, Silent
from ..core.seeded import seeded
from ..models.locate import locate
from ..models.tokens import load_tokenizer
from ..runtime.decode import drawing
from ..runtime.ready import RunsOn, load_ready
from ..runtime.skipping import FEW
from .prepare import choose_device


@dataclass(frozen=True)
class Generation:
    """Continuations of the prompts, and what it took: ``tokens_per_second`` counts new tokens of all prompts."""

    model: str
    backend: str
    packed_layers: int
    linear_layers: int
    prompts: list[str]
    texts: list[str]
    new_tokens: int
    seconds: float
    tokens_per_second: float


def generate(model: str | Path, prompts: Sequence[str], *, new_tokens: int = 64, temperature: float = 0.0,
             top_p: float = 1.0, top_k: int = 0, seed: int = 0, chat: bool = False,
             activations: str | Path | None = None,
             keep: Literal["fastest", "packed"] = "fastest", device: str = "cpu", threads: int | None = None,
             trust_remote_code: bool = False,
             progress: Progress | None = None, say: Callable[[str], None] | None = None) -> Generation:  # fmt: skip
    """Continue prompts, several as one batch: greedily, or drawn at a ``temperature``.

    ``chat`` puts each prompt into the model's chat template. ``activations`` is a file of thresholds
    (:func:`prunus.threshold`): behind the prompts, layers skip columns where that is faster here (``keep="packed"``: all).
    ``say`` is given the text of a single prompt piece by piece, as it comes.

    Raises:
        RecipeError: if a setting has a fault, or the model has no chat template.
        CheckpointError, UnsupportedModelError: if the model cannot be read or built.
    """
    faults = [] if prompts else ["no prompt is given"]
    faults += [f"the prompt {prompt!r} is empty" for prompt in prompts if not prompt]
    faults += [] if new_tokens >= 1 else ["new_tokens must be 1 or more"]
    faults += [] if temperature >= 0 else ["temperature must be 0 (greedy) or more"]
    faults += (
        []
        if activations is None or len(prompts) <= FEW
        else [f"activations: columns are skipped for at most {FEW} prompts at once, and {len(prompts)} are given"]
    )
    faults += [] if 0 < top_p <= 1 else ["top_p must be above 0 and at most 1"]
    if faults:
        raise RecipeError(faults)
    folder, reporter, before = locate(model), progress or Silent(), torch.get_num_threads()
    where = RunsOn(keep, choose_device(device), len(prompts), None if activations is None else Path(activations))
    tokenizer: Any = load_tokenizer(folder, trust_remote_code)
    try:
        torch.set_num_threads(threads or before)
        loaded, _ = load_ready(folder, where, reporter, trust_remote_code)
        reporter.close()
        batch = {name: tensor.to(where.device) for name, tensor in _batch(tokenizer, prompts, chat).items()}
        streamer = _Pieces(tokenizer, say) if say is not None and len(prompts) == 1 else None
        drawn = drawing(temperature, top_p, top_k)
        start = perf_counter()
        with seeded(seed, where.device), torch.inference_mode():
            output = loaded.model.generate(**batch, max_new_tokens=new_tokens, streamer=streamer, **drawn,
                                           pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        seconds = perf_counter() - start
    finally:
        torch.set_num_threads(before)
        reporter.close()
    new = output[:, batch["input_ids"].shape[1] :]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in new]
    count = int((new != tokenizer.pad_token_id).sum()) if len(prompts) > 1 else new.numel()
    return Generation(str(model), where.backend, loaded.packed, len(loaded.layers), list(prompts), texts, count,
                      round(seconds, 3), round(count / seconds, 2))  # fmt: skip


def _batch(tokenizer: Any, prompts: Sequence[str], chat: bool) -> dict[str, Any]:
    """The prompts' tokens and attention mask, padded on the left."""
    texts = list(prompts)
    if chat:
        if not tokenizer.chat_template:
            raise RecipeError(["the model has no chat template: leave out chat"])
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
            for text in texts
        ]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    found = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not chat)
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


class _Pieces:
    """Gives whole words to ``say`` as tokens come, as Transformers' streamers do."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        self.tokenizer, self.say = tokenizer, say
        self.ids: list[int] = []
        self.said = 0
        self.prompt = True

    def put(self, ids: torch.Tensor) -> None:
        """More tokens: the prompt first."""
        if self.prompt:
            self.prompt = False
            return
        self.ids += ids.flatten().tolist()
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        whole = text if text.endswith("\n") else text[: text.rfind(" ") + 1]
        if len(whole) > self.said:
            self.say(whole[self.said :])
            self.said = len(whole)

    def end(self) -> None:
        """No token follows."""
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        self.say(text[self.said :])
