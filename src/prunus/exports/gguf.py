"""GGUF, which llama.cpp and all that is built on it read: one file with weights, config and tokenizer.

Transformers' reader loads what was written: every weight is held against the checkpoint's, with llama.cpp's order
undone, and the logits are compared.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ProofError, RecipeError
from ..core.progress import Progress
from ..core.registry import suggest
from ..models.gguf import gguf_config
from ..models.skeleton import quiet_transformers
from ..observe.text import read_text
from .gguf_architectures import (
    Architecture,
    Piece,
    architecture_of,
    frequency_factors,
    hyperparameters,
    pieces,
    remarks,
    zero_biases,
)
from .gguf_tokens import reader_splits_alike, tokenizer_fields
from .opened import Opened, opened
from .written import Check, Request, Written, compared

FILE = "model.gguf"
TOLERANCE = 1e-4
"""Largest difference of logits, as a part of the largest: the same sums in fp32, maybe in another order."""


@dataclass(frozen=True)
class Kind:
    """A way to store numbers: GGUF's name, that of a whole file of it, and what rounding may do.

    ``step`` is the largest error, as a part of the largest number of a block (of one number, where blocks are of one).
    """

    name: str
    file_type: str
    step: float
    block: int = 1


KINDS = {
    "float32": Kind("F32", "ALL_F32", 0.0),
    "float16": Kind("F16", "MOSTLY_F16", 2**-11),
    "bfloat16": Kind("BF16", "MOSTLY_BF16", 2**-8),
    "q8_0": Kind("Q8_0", "MOSTLY_Q8_0", 1 / 254, 32),
    "q5_1": Kind("Q5_1", "MOSTLY_Q5_1", 1 / 31, 32),
    "q5_0": Kind("Q5_0", "MOSTLY_Q5_0", 1 / 16, 32),
    "q4_1": Kind("Q4_1", "MOSTLY_Q4_1", 1 / 15, 32),
    "q4_0": Kind("Q4_0", "MOSTLY_Q4_0", 1 / 8, 32),
}
_HALF = 2**-11
"""Scales and least values of blocks are half-precision numbers, with this relative error."""


def write(request: Request, place: Path, progress: Progress) -> Written:
    """Write ``model.gguf`` and check it.

    Raises:
        RecipeError: if there is no such dtype.
        UnsupportedModelError, CheckpointError: if llama.cpp has no such model or tokenizer, or one is missing.
        ProofError: if what Transformers reads of the file is not the model, beyond the rounding of the dtype.
    """
    if request.dtype not in ("auto", *KINDS):
        raise RecipeError([f"there is no dtype '{request.dtype}' in GGUF{suggest(request.dtype, KINDS)}"])
    source = opened(request, copies=2)
    config = source.model.config
    architecture = architecture_of(config)
    stored = str(source.stored_dtype).removeprefix("torch.")
    dtype = request.dtype if request.dtype != "auto" else stored if stored in KINDS else "float32"
    fields, said = tokenizer_fields(source.tokenizer, int(config.vocab_size))
    plan = _plan(source, architecture, dtype)
    _write_file(place / FILE, source, architecture, (dtype, fields, plan), progress)
    for path in source.checkpoint.extras():
        if path.name.startswith("LICENSE"):
            (place / path.name).write_bytes(path.read_bytes())
    progress.start("Checking", 2)
    check = _checked(place / FILE, source, plan, progress)
    notes = [*remarks(config), *said, *_odd(plan, dtype), *_tokenizer_checked(place / FILE, source.tokenizer, fields)]
    rounded = sum(kind.name not in ("F32", "F16", "BF16") for _, kind in plan)
    return Written(f"GGUF {architecture.name}, {dtype}", rounded, source.plain_bytes, (place / FILE).stat().st_size,
                   (check,), tuple(notes))  # fmt: skip


Plan = list[tuple[Piece, Kind]]


def _plan(source: Opened, architecture: Architecture, dtype: str) -> Plan:
    """Every tensor of the file with how it is stored.

    Vectors and routers are F32, as llama.cpp wants them; embedding and head keep 8 bits where the others have fewer; rows
    that do not divide into blocks are stored in half precision.
    """
    found = []
    for piece in pieces(source.model, architecture):
        value = source.model.get_parameter(piece.parameter)
        kind = KINDS[dtype]
        if value.dim() < 2 or piece.name.endswith("ffn_gate_inp.weight"):
            kind = KINDS["float32"]
        elif kind.block > 1 and piece.name in ("token_embd.weight", "output.weight"):
            kind = KINDS["q8_0"]
        if value.shape[-1] % kind.block:
            kind = KINDS["float16"]
        found.append((piece, kind))
    return found


def _odd(plan: Plan, dtype: str) -> Iterator[str]:
    """What is stored otherwise than was asked for, although it is a matrix."""
    half = [piece.name for piece, kind in plan if kind.name == "F16"]
    if KINDS[dtype].block > 1 and half:
        yield f"{len(half)} matrices ({half[0]}, …) have rows that do not divide into blocks of 32: stored in float16."


def _write_file(path: Path, source: Opened, architecture: Architecture, how: tuple[str, Mapping[str, Any], Plan],
                progress: Progress) -> None:  # fmt: skip
    import gguf

    dtype, fields, plan = how
    writer = gguf.GGUFWriter(path, architecture.name)
    writer.add_type("model")
    name = source.checkpoint.folder.name
    writer.add_name(
        f"{name} model" if name == "mistral" else name
    )  # by that very name Transformers takes it for another type
    writer.add_file_type(gguf.LlamaFileType[KINDS[dtype].file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in hyperparameters(source.model.config).items():
        name = key if key.startswith("general.") else f"{architecture.name}.{key}"
        _add(writer, name, value)
    for key, value in fields.items():
        _add(writer, f"tokenizer.{key}", value)
    tensors = list(_tensors(source, plan))
    for name, kind, tensor in tensors:
        shape = tensor().shape
        row = shape[-1] // gguf.GGML_QUANT_SIZES[kind][0] * gguf.GGML_QUANT_SIZES[kind][1]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(shape[:-1].numel()) * row, raw_dtype=kind)
    progress.start("Writing GGUF", len(tensors))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, kind, tensor in tensors:
            values = np.ascontiguousarray(tensor().float().numpy())
            stored = gguf.quantize(values, kind)
            writer.write_tensor_data(stored)
            progress.step(name)
    finally:
        writer.close()


def _tensors(source: Opened, plan: Plan) -> Iterator[tuple[str, Any, Any]]:
    """Name, kind and (made when called) values of every tensor."""
    import gguf

    factors = frequency_factors(source.model)
    if factors is not None:
        yield "rope_freqs.weight", gguf.GGMLQuantizationType.F32, lambda: factors
    for name in zero_biases(source.model.config):
        yield name, gguf.GGMLQuantizationType.F32, lambda: torch.zeros(source.model.config.hidden_size)
    for piece, kind in plan:
        value = source.model.get_parameter(piece.parameter).detach()
        yield piece.name, gguf.GGMLQuantizationType[kind.name], lambda piece=piece, value=value: piece.of(value)


def _add(writer: Any, key: str, value: Any) -> None:
    """A key and its value in the type that llama.cpp expects of it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _checked(path: Path, source: Opened, plan: Plan, progress: Progress) -> Check:
    """What Transformers reads of the file, beside the model: weights, then logits."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    wanted, reader = source.logits, GGUFReader(path)
    with quiet_transformers(), redirect_stderr(io.StringIO()):  # its progress bar cannot be told to be quiet
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=gguf_config(path, reader), dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    model, info = loaded
    faults = [f"{kind.replace('_', ' ')}: {sorted(map(str, names))[0]}" for kind, names in info.items() if names]
    if faults:
        raise ProofError(f"Transformers does not read the file that was written as it was meant ({'; '.join(faults)}).")
    model.eval()
    found = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if found is not None:  # Transformers leaves it out
        model.base_model.rotary_emb.inv_freq /= torch.from_numpy(np.array(found))
    progress.step()
    worst = _weights_checked(source.model, model, plan)
    with torch.inference_mode():
        logits = model(input_ids=source.ids, use_cache=False).logits.float()
        if worst:  # the model's own config with the weights that were read
            own = torch.func.functional_call(
                source.model, _like(source.model, model), (), {"input_ids": source.ids, "use_cache": False}
            )
            compared("Transformers' GGUF reader", own.logits.float(), logits, TOLERANCE)
    progress.step()
    return compared("Transformers' GGUF reader", wanted, logits, None if worst else TOLERANCE, worst)


def _weights_checked(model: Any, read: Any, plan: Plan) -> float:
    """The largest error of a weight, as a part of what rounding may do to it.

    Raises:
        ProofError: if it is more than one.
    """
    worst, theirs = 0.0, dict(read.named_parameters(remove_duplicate=False))
    for piece, kind in plan:
        own, other = model.get_parameter(piece.parameter).detach(), theirs[piece.parameter].detach()
        if own.shape != other.shape:
            raise ProofError(f"{piece.parameter}: read back as {list(other.shape)}, it is {list(own.shape)}.")
        blocks = own.unflatten(-1, (-1, kind.block)).abs().amax(-1, keepdim=True)
        coarse = kind.step + 2 * _HALF * (kind.block > 1)
        allowed = (coarse * blocks).expand(*blocks.shape[:-1], kind.block).flatten(-2) + _least(piece, kind, own)
        error = (own - other).abs()
        if not bool((error <= allowed).all()):
            raise ProofError(
                f"{piece.parameter} was stored as {kind.name} and is read back with errors up to {float(error.max()):.3g}, "
                "more than rounding explains. Nothing was written. Please report it."
            )
        if kind.step:
            worst = max(worst, float((error / allowed).max()))
    return worst


def _like(model: Any, read: Any) -> dict[str, Tensor]:
    """What was read for each parameter that the model has."""
    own = dict(model.named_parameters())
    return {name: value for name, value in read.named_parameters() if name in own}


def _least(piece: Piece, kind: Kind, own: Tensor) -> Tensor:
    """An error that is rounding however tiny numbers are: half-precision ones have a least step, and so has 1 + number."""
    if kind.name == "F32":
        return 2**-23 * (own.abs() + 1) * piece.name.endswith("_norm.weight")
    return torch.full((), 2**-25 * (128 if kind.block > 1 else 1))


def _tokenizer_checked(path: Path, tokenizer: Any, fields: Mapping[str, Any]) -> list[str]:
    """Whether Transformers gets a tokenizer of the file that cuts a text as the model's does."""
    from transformers import AutoTokenizer

    if not reader_splits_alike(fields):
        return [
            f"Transformers' GGUF reader does not split text as '{fields['ggml.pre']}' does: its tokens were not compared."
        ]
    text = read_text("factbook-heldout")[:4000]
    with quiet_transformers():
        try:
            read = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:  # tokenizers raises no narrower kind
            raise ProofError(f"Transformers makes no tokenizer of the file ({error}). Nothing was written.") from error
        own, other = tokenizer(text)["input_ids"], read(text)["input_ids"]
    if own != other:
        at = next((k for k, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
        raise ProofError(
            f"the tokenizer that Transformers reads from the file cuts text otherwise, from token {at} on. "
            "Nothing was written. Please report it."
        )
    return []


def product_bytes(path: Path) -> int:
    """Bytes of a file's matrices that decoding a token reads: all, but an embedding that is not the head too."""
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors if len(tensor.shape) > 1}
    return sum(size for name, size in sizes.items() if name != "token_embd.weight" or "output.weight" not in sizes)
