"""The formats that a model can be exported to, by name."""

from __future__ import annotations

from . import compressed_tensors, gguf, onnx, torch_export
from .written import Writer

TARGETS: dict[str, Writer] = {
    "compressed-tensors": compressed_tensors.write,
    "gguf": gguf.write,
    "onnx": onnx.write,
    "torch-export": torch_export.write,
}
