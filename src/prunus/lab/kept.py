"""What is kept of a run on disk: the state of training, whole or not at all, and weights. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from ..checkpoint.disk import sync, system_errors
from ..core.errors import CheckpointError
from ..models.skeleton import quiet_transformers

WEIGHTS = "model.safetensors"
_TENSOR, _PAIRS, _TUPLE = "tensor", "pairs", "tuple"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values in place of what was there: on a crash either of
    them is there, whole.

    Raises:
        TypeError: if something in it is neither.
    """
    tensors: dict[str, Tensor] = {}
    plan = json.dumps(_taken_apart(state, tensors))
    temporary = path.with_suffix(".new")
    with system_errors():
        save_file(tensors, temporary, metadata={"state": plan})
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        state: dict[str, Any] = _put_together(json.loads(file.metadata()["state"]), tensors)
    return state


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON in which tensors are numbers of entries in ``tensors``."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {_PAIRS: [[key, _taken_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_taken_apart(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_taken_apart(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} is neither a tensor nor a plain value, so it cannot be kept")


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_put_together(item, tensors) for item in value[_TUPLE])
    return {key: _put_together(item, tensors) for key, item in value[_PAIRS]}


def save_weights(model: nn.Module, folder: Path, tokenizer: str | None = None) -> None:
    """``model.safetensors`` in a folder: a plain state dict; of a model of transformers its checkpoint, with a
    ``tokenizer`` that is given as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    if not hasattr(model, "save_pretrained"):
        save_model(model, str(folder / WEIGHTS))
        return
    with quiet_transformers():
        model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer is not None:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer)).save_pretrained(folder)


def save_weights_as(model: nn.Module, path: Path) -> None:
    """A network's weights in a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    save_model(model, str(temporary))
    temporary.replace(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a safetensors file into a network, all of them.

    Raises:
        CheckpointError: if the file is missing or damaged, or its tensors are not the network's.
    """
    try:
        load_model(model, path)
    except Exception as error:  # safetensors has an error of its own, torch RuntimeErrors
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: these weights do not go into {type(model).__name__} ({reason[:300]}).") from error


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same tensors, bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
