"""ONNX, with keys and values of earlier tokens as inputs and outputs, under the names that the ecosystem has for them.

Inputs ``input_ids``, ``attention_mask``, ``position_ids``, ``past_key_values.K.key`` and ``.value``; outputs ``logits``,
``present.K.key`` and ``.value``; batch and lengths open.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import RecipeError, UnsupportedModelError
from ..core.progress import Progress
from .opened import Opened, opened
from .traced import TOLERANCE, CachedPass, cached_sample, copy_beside, only_float32, traced, widened
from .written import Check, Request, Written, compared

FILE = "model.onnx"
READER = "ONNX Runtime"
OPSET = 20
_INLINE = 1_800_000_000
"""Bytes of weights that one file can hold: what is more goes into ``model.onnx.data``."""


def write(request: Request, place: Path, progress: Progress) -> Written:
    """Write ``model.onnx`` and check it.

    Raises:
        RecipeError: if a dtype other than float32 is asked for, or the packages are not installed.
        UnsupportedModelError: if torch.export cannot follow the model, or it keeps more than keys and values.
        ProofError: if ONNX Runtime computes other logits.
    """
    only_float32(request, "onnx")
    require_packages()
    source = opened(request, copies=2)
    progress.start("Tracing, translating, writing, checking", 4)
    write_onnx(source, place / FILE, progress)
    copy_beside(source, place)
    check = _checked(place / FILE, source)
    progress.step()
    size = sum(path.stat().st_size for path in place.glob(f"{FILE}*"))
    return Written(f"ONNX opset {OPSET}, float32", 0, source.plain_bytes, size, (check,), widened(source))


def require_packages() -> None:
    """Raise RecipeError if what writes and runs ONNX is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise RecipeError([f"ONNX needs {', '.join(missing)}, which is not installed: pip install 'prunus[onnx]'"])


def write_onnx(source: Opened, path: Path, progress: Progress) -> None:
    """The model as ONNX."""
    source.logits  # noqa: B018 - before the model's attention is changed for tracing
    sample, shapes, blocks = cached_sample(source)
    program = traced(source, CachedPass(source.model), sample, shapes)
    progress.step()
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                program, (), input_names=input_names(blocks), output_names=output_names(blocks), opset_version=OPSET,
                dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise _unsupported(source, error) from error
    _tidied(made.model)
    progress.step()
    with _quiet():
        made.save(path, external_data=4 * sum(p.numel() for p in source.model.parameters()) > _INLINE)
    progress.step()


def input_names(blocks: int) -> list[str]:
    """Names of all inputs of a model with a cache for so many blocks."""
    cache = [f"past_key_values.{block}.{part}" for block in range(blocks) for part in ("key", "value")]
    return ["input_ids", "attention_mask", "position_ids", *cache]


def output_names(blocks: int) -> list[str]:
    """Names of all outputs."""
    return ["logits", *(f"present.{block}.{part}" for block in range(blocks) for part in ("key", "value"))]


def _tidied(model: Any) -> None:
    """Give open extents their names, and take out what torch noted of each step: paths of this machine, mostly."""
    import onnx_ir

    ids, mask, _, past = model.graph.inputs[:4]
    named = {str(ids.shape[0]): "batch_size", str(ids.shape[1]): "sequence_length"}
    named |= {str(past.shape[2]): "past_sequence_length", str(mask.shape[1]): "total_sequence_length"}
    nodes = list(model.graph.all_nodes())
    for node in nodes:
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *(value for node in nodes for value in node.outputs)):
        value.metadata_props.clear()
        for place, extent in enumerate(value.shape or ()):
            if isinstance(extent, onnx_ir.SymbolicDim):
                words = re.sub(r"\bs\d+\b", lambda found: named.get(found[0], found[0]), str(extent))
                value.shape[place] = onnx_ir.SymbolicDim(named.get(str(extent), words))


def _unsupported(source: Opened, error: Exception) -> UnsupportedModelError:
    reason = " ".join(str(error).split())[:300]
    return UnsupportedModelError(
        f"{source.checkpoint.folder}: {type(source.model).__name__} has a step that ONNX (Runtime) cannot do ({reason})."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages that it does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class Session:
    """A written model in ONNX Runtime, on the CPU, with the keys and values of the tokens so far."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.force_spinning_stop", "1"
        )  # its threads leave the cores to whoever is next
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._empty = {
            entry.name: [entry.shape[1], entry.shape[3]] for entry in self._session.get_inputs() if "past_key" in entry.name
        }
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._takes = {entry.name for entry in self._session.get_inputs()}
        self._past: dict[str, Any] = {}
        self._seen = 0

    def forget(self) -> None:
        """Begin anew."""
        self._past, self._seen = {}, 0

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits ``[batch new vocabulary]`` of new tokens ``ids [batch new]`` behind those seen before."""
        from onnxruntime import OrtValue

        batch, new = ids.shape
        past = self._past or {
            name: OrtValue.ortvalue_from_numpy(np.zeros((batch, heads, 0, width), np.float32))
            for name, (heads, width) in self._empty.items()
        }
        whole = {
            "input_ids": ids.numpy(),
            "attention_mask": np.ones((batch, self._seen + new), np.int64),
            "position_ids": np.ascontiguousarray(np.broadcast_to(np.arange(self._seen, self._seen + new), (batch, new))),
        }
        given = {name: OrtValue.ortvalue_from_numpy(value) for name, value in whole.items() if name in self._takes}
        logits, *kept = self._session.run_with_ort_values(self._outputs, {**given, **past})
        self._past, self._seen = dict(zip(self._empty, kept, strict=True)), self._seen + new
        return torch.from_numpy(logits.numpy())


def quantised(path: Path, target: Path) -> Path:
    """A copy of a model whose products with weights are of whole numbers: weights in 8 bits with a scale an output,
    activations rounded as they come (``onnxruntime.quantization.quantize_dynamic``)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    _turn_weights(model.graph)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises steps for models of images
    try:
        quantize_dynamic(
            model, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=path.with_name(f"{path.name}.data").is_file(),
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    finally:
        logger.setLevel(level)
    return target


def _turn_weights(graph: Any) -> None:
    """Products by a weight that is transposed on the way, as a head that is the embedding is, take it transposed."""
    from onnx import numpy_helper

    weights = {entry.name: entry for entry in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
        turned = numpy_helper.to_array(weights[node.input[0]]).transpose(order)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(turned), node.output[0]))
        graph.node.remove(node)


def product_bytes(path: Path) -> int:
    """Bytes of the weights that activations are multiplied by: what decoding a token reads."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    sizes = {entry.name: math.prod(entry.dims) * onnx.helper.tensor_dtype_to_np_dtype(entry.data_type).itemsize
             for entry in graph.initializer}  # fmt: skip
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    products = {"MatMul", "MatMulInteger", "Gemm"}
    return sum(sizes.get(name, 0) for node in graph.node if node.op_type in products for name in node.input[:2])


def _checked(path: Path, source: Opened) -> Check:
    """The session on all windows, in three passes with what it keeps itself, the last of one token; and on one window."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    try:
        session = Session(path)
    except (runtime.NotImplemented, runtime.Fail, runtime.InvalidGraph, runtime.RuntimeException) as error:
        raise _unsupported(source, error) from error
    ids, wanted = source.ids, source.logits
    found = torch.cat([session(part) for part in (ids[:, :16], ids[:, 16:-1], ids[:, -1:])], dim=1)
    session.forget()
    compared(READER, wanted[:1, :5], session(ids[:1, :5]), TOLERANCE)
    return compared(READER, wanted, found, TOLERANCE)
