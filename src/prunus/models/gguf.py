"""GGUF to a safetensors checkpoint, tensor by tensor, once, into the cache.

Transformers reads GGUF by dequantising everything into one dictionary. Its name maps and per-architecture undoing of
GGUF's permutations are used here on one tensor at a time, so that memory holds one tensor.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.cache import cache_folder
from ..checkpoint.safetensors_file import lay_down, raw_bytes, write_at
from ..checkpoint.source import INDEX, SINGLE
from ..checkpoint.work_folder import WorkFolder
from ..core.errors import CheckpointError, OutputError, UnsupportedModelError
from .skeleton import build_skeleton, quiet_transformers

SHARD_BYTES = 5 * 10**9
OUTPUT = "output"
_VERSION = 1
_HEADS = ("llama", "mistral", "qwen2", "qwen3")
_LARGEST_GEMMAS = (46, 62)
"""Numbers of blocks of the Gemmas that scale attention by the hidden width over the heads."""
_ROOM = 64 << 20
"""Bytes that what is beside the weights may take."""


def convert_gguf(path: Path) -> Path:
    """The checkpoint folder of a GGUF file, from the cache or converted now.

    F16 and BF16 tensors keep their dtype; quantised ones become float32, which holds their values exactly.

    Raises:
        CheckpointError: if the file is corrupt or lacks tensors.
        UnsupportedModelError: if its architecture is unknown to transformers.
        OutputError: if the cache cannot be written.
    """
    target = cache_folder() / "gguf" / f"{path.stem}-{_fingerprint(path)}"
    if (target / "config.json").is_file():
        return target
    work = WorkFolder(target, "prunus-convert")
    work.take(wait=True)
    try:
        if not (target / "config.json").is_file():  # nobody else has converted it meanwhile
            work.empty()
            (work.path / OUTPUT).mkdir()
            _convert(path, work.path / OUTPUT)
            work.give(work.path / OUTPUT)
    except OSError as error:
        raise OutputError(
            f"{target}: the converted {path.name} cannot be kept there ({error.strerror or error}). Free some space, or "
            "let PRUNUS_CACHE name another folder."
        ) from error
    finally:
        work.remove()
    return target


def _fingerprint(path: Path) -> str:
    """What tells a file from others of its name, and from what it was before: its two ends, its size and its time."""
    about = path.stat()
    digest = hashlib.sha256(f"{_VERSION} {about.st_size} {about.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(8 << 20))
        file.seek(max(0, about.st_size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:16]


def _convert(path: Path, folder: Path) -> None:
    from gguf import GGUFReader
    from transformers import GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        load_gguf_checkpoint,
    )

    try:
        reader = GGUFReader(path)
        with quiet_transformers():
            metadata = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
            config, tokenizer = _config_and_tokenizer(path, reader)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as GGUF ({str(error).strip().splitlines()[0]}).") from error
    model = build_skeleton(config, torch.float32)
    architecture = str(reader.fields["general.architecture"].contents())
    kind: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    processor = kind(config=metadata)
    names = get_gguf_hf_weights_map(model, processor)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {names[tensor.name]: tensor for tensor in reader.tensors if names.get(tensor.name) in shapes}
    missing = sorted(set(shapes) - set(found))
    if missing:
        raise UnsupportedModelError(
            f"{path}: {len(missing)} of the model's {len(shapes)} tensors cannot be read from the file one by one, "
            f"{missing[0]} among them. Convert it to safetensors with transformers' from_pretrained(gguf_file=...)."
        )
    needed = sum(_stored_dtype(found[name]).itemsize * torch.Size(shape).numel() for name, shape in shapes.items())
    free = shutil.disk_usage(folder).free
    if needed + _ROOM > free:  # tokenizers fails with an exception of no kind
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    for part in (config, tokenizer, GenerationConfig.from_model_config(config)):
        part.save_pretrained(folder)
    _write_shards(folder, found, shapes, lambda tensor: _dequantised(tensor, processor, names))


def _config_and_tokenizer(path: Path, reader: Any) -> tuple[Any, Any]:
    from transformers import AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = gguf_config(path, reader)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    config.dtype = torch.float32
    return config, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def gguf_config(path: Path, reader: Any) -> Any:
    """The config of a GGUF file through Transformers, with what its reader leaves out put in from the file.

    That is the width of heads, where it is not the hidden width over their number; linear and YaRN scaling of positions;
    which layers have biases; the width of experts; the caps and the scale of Gemma's attention.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    architecture = str(reader.fields["general.architecture"].contents())
    prefix, kind = f"{architecture}.", config.model_type
    told = {key.removeprefix(prefix): field.contents() for key, field in reader.fields.items() if key.startswith(prefix)}
    names = {tensor.name for tensor in reader.tensors}
    if kind in _HEADS and "attention.key_length" in told:
        config.head_dim = int(told["attention.key_length"])
    if kind in _HEADS and told.get("rope.scaling.type") in ("linear", "yarn"):
        scaled = {"rope_type": told["rope.scaling.type"], "factor": float(told["rope.scaling.factor"])}
        if "rope.scaling.original_context_length" in told:
            scaled["original_max_position_embeddings"] = int(told["rope.scaling.original_context_length"])
        config.rope_parameters = {**config.rope_parameters, **scaled}
    if kind == "llama":
        config.attention_bias = "blk.0.attn_q.bias" in names
        config.mlp_bias = "blk.0.ffn_up.bias" in names
    if kind == "qwen3_moe" and "expert_feed_forward_length" in told:
        config.moe_intermediate_size = int(told["expert_feed_forward_length"])
    if kind == "gemma2":
        config.attn_logit_softcapping = told.get("attn_logit_softcapping", config.attn_logit_softcapping)
        config.final_logit_softcapping = told.get("final_logit_softcapping", config.final_logit_softcapping)
    if kind in ("gemma2", "gemma3_text") and told["block_count"] not in _LARGEST_GEMMAS:
        config.query_pre_attn_scalar = config.head_dim
    return config


def _stored_dtype(tensor: Any) -> torch.dtype:
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(tensor.tensor_type.name, torch.float32)


def _dequantised(tensor: Any, processor: Any, names: dict[str, str]) -> torch.Tensor:
    from gguf import dequantize

    values = processor.process(
        weights=dequantize(tensor.data, tensor.tensor_type),
        name=tensor.name,
        tensor_key_mapping=names,
        parsed_parameters={"tensors": {}},
    ).weights
    return torch.from_numpy(np.array(values, copy=True)).to(_stored_dtype(tensor))


def _write_shards(folder: Path, found: dict[str, Any], shapes: dict[str, tuple[int, ...]], read: Any) -> None:
    shards: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    size = 0
    for name in shapes:
        dtype = _stored_dtype(found[name])
        nbytes = dtype.itemsize * torch.Size(shapes[name]).numel()
        if size and size + nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = (dtype, shapes[name])
        size += nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        laid = lay_down(folder / file, shard)
        for name, (_, shape) in shard.items():
            tensor = read(found[name])
            if tuple(tensor.shape) != shape:
                raise CheckpointError(f"GGUF tensor '{name}' is {list(tensor.shape)}, its config asks for {list(shape)}.")
            write_at(laid.path, laid.entries[name].start, raw_bytes(tensor))
            weight_map[name] = file
    if len(shards) > 1:
        total = sum(torch.Size(s).numel() * d.itemsize for shard in shards for d, s in shard.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2))
