"""Tokens a second of a Llama of more than a billion random weights, packed and dense, in one run.

    python benchmarks/decoding.py [SHAPE [THREADS]]

SHAPE is llama-3.2-1b (default) or tinyllama-1.1b. Weights are random, the zeros are where a pattern may have them: what
matters is time. All ways take turns in one process; each way's peak memory is that of a process of its own. The head is in
int8 in every int8 and int4 way, in bf16 in the bf16 way, in fp32 else.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.storage import StorageFormat
from prunus.measure.memory import peak_memory_bytes
from prunus.runtime.arranged import Arranged, arrange
from prunus.runtime.decode import decode
from prunus.runtime.library import kernels
from prunus.runtime.linear import PackedLinear
from prunus.runtime.load import swap
from prunus.runtime.ways import bytes_a_token, linears
from prunus.storage.bitmask import Bitmask
from prunus.storage.dense import Dense
from prunus.storage.nm import NMStorage
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from rows import Rows

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000, "tie_word_embeddings": False,
    },
}  # fmt: skip
FORMATS: dict[str, tuple[StorageFormat, Values, Values]] = {
    "2:4 int8": (NMStorage(2, 4), Values("int8"), Values("int8")),
    "2:4 int4 group 64": (NMStorage(2, 4), Values("int4", 64), Values("int8")),
    "bitmask int8 50%": (Bitmask(), Values("int8"), Values("int8")),
    "bitmask bfloat16 50%": (Bitmask(), Values("bfloat16"), Values("bfloat16")),
    "dense int8, ours": (Dense(), Values("int8"), Values("int8")),
    "dense int4 group 64, ours": (Dense(), Values("int4", 64), Values("int8")),
}
"""How blocks are packed, and the head."""
WAYS = ("torch float32", "torch dynamic int8", *FORMATS)
PROMPT, NEW, REPEATS = 32, 16, 5
WORD = "--memory-of"


@cache
def embedding(vocabulary: int, width: int) -> Tensor:
    """One for all models."""
    return torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(0)) * 0.02


def skeleton(shape: str) -> Any:
    """The model with embeddings and norms, linear layers still without weights."""
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    with init_empty_weights(include_buffers=False):
        model: Any = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=2048)).eval()
    for name, parameter in list(model.named_parameters()):
        owner, _, key = name.rpartition(".")
        if key == "weight" and parameter.dim() == 1:
            model.get_submodule(owner).weight = nn.Parameter(torch.ones(parameter.shape), requires_grad=False)
    table = model.get_input_embeddings()
    table.weight = nn.Parameter(embedding(*table.weight.shape), requires_grad=False)
    return model


@cache
def random_weight(rows: int, cols: int, storage: StorageFormat) -> Tensor:
    """What layers of a shape multiply by: half of it zeros where the format is for that."""
    generator = torch.Generator().manual_seed(rows + cols)
    weight = torch.randn(rows, cols, generator=generator) * 0.02
    if isinstance(storage, Dense):
        return weight
    groups = torch.rand(weight.shape[0], weight.shape[1] // 4, 4, generator=generator)
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(2, -1).indices, True).flatten(1)
    return torch.where(keep, weight, torch.zeros(()))


@cache
def arranged_weight(rows: int, cols: int, storage: StorageFormat, values: Values) -> Arranged:
    """The same, packed, in the kernels' order."""
    weight, scales = random_weight(rows, cols, storage), None
    if values.coded:  # the largest weight's: a better one costs time here and gains none
        most = weight.unflatten(1, (values.groups(cols), -1)).abs().amax(-1)
        scales = (most / ((1 << values.bits - 1) - 1)).to(torch.float16)
    found = arrange(PackedWeight.of(weight, storage, values, scales))
    assert found is not None
    return found


def packed_layer(rows: int, cols: int, storage: StorageFormat, values: Values) -> PackedLinear:
    """A layer with a copy of its own of what all layers of its shape hold: only where it lies matters to time."""
    one, found = arranged_weight(rows, cols, storage, values), kernels()
    assert found is not None
    tensors = {name: tensor.clone() for name, tensor in one.tensors.items()}
    return PackedLinear(Arranged(one.layout, rows, cols, one.group, tensors), None, found)


def build(shape: str, way: str) -> Any:
    """The model in one way."""
    model = skeleton(shape)
    for path, module in list(linears(model)):
        head, rows, cols = path == "lm_head", module.out_features, module.in_features
        if way in FORMATS:
            storage, values, head_values = FORMATS[way]
            swap(model, path, packed_layer(rows, cols, *((Dense(), head_values) if head else (storage, values))))
            continue
        linear = nn.Linear(cols, rows, bias=False, device="meta")
        shared = head and model.config.tie_word_embeddings
        weight = model.get_input_embeddings().weight if shared else random_weight(rows, cols, Dense()).clone()
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if way == "torch dynamic int8":
            made = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)
            swap(model, path, made[0])
        else:
            swap(model, path, linear)
    return model


def memory_of(shape: str, way: str) -> None:
    """In a process of its own: the peak of decoding, that of making the weights aside."""
    model = build(shape, way)
    for kept in (random_weight, arranged_weight):
        kept.cache_clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    decode(model, torch.arange(PROMPT)[None], 4)
    print(peak_memory_bytes())


def main() -> None:
    """All ways in turns."""
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == [WORD]:
        memory_of(sys.argv[2], sys.argv[3])
        return
    shape = sys.argv[1] if len(sys.argv) > 1 else "llama-3.2-1b"
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    torch.set_num_threads(threads)
    found = kernels()
    assert found is not None
    peaks = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, __file__, WORD, shape, way], capture_output=True, text=True, check=True)
        peaks[way] = int(done.stdout.split()[-1])
    models = {way: build(shape, way) for way in WAYS}
    for kept in (random_weight, arranged_weight):
        kept.cache_clear()
    ids = torch.randint(0, 32000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    steps: dict[str, list[float]] = {way: [] for way in WAYS}
    prefill: dict[str, list[float]] = {way: [] for way in WAYS}
    room, reading = torch.zeros(600_000_000, dtype=torch.uint8), []
    for turn in range(REPEATS + 1):
        for way, model in models.items():
            decoded = decode(model, ids, NEW)
            if turn:
                steps[way].append(median(decoded.step_seconds))
                prefill[way].append(decoded.prefill_seconds)
        start = perf_counter()
        found.read(room)
        reading.append(perf_counter() - start)
    bandwidth = room.nbytes / median(reading)
    dense = median(steps["torch float32"])
    for way, model in models.items():
        seconds, nbytes = median(steps[way]), bytes_a_token(model)
        Rows(Path(__file__).parent / "rows" / "runtime.jsonl").add(
            benchmark="decoding", shape=shape, config=SHAPES[shape], way=way, threads=threads, kernels=found.name,
            prompt_tokens=PROMPT, new_tokens=NEW, repeats=REPEATS, tokens_per_second=round(1 / seconds, 2),
            least=round(1 / max(steps[way]), 2), most=round(1 / min(steps[way]), 2),
            over_torch_float32=round(dense / seconds, 2), prefill_tokens_per_second=round(PROMPT / median(prefill[way]), 1),
            layers_packed=sum(isinstance(module, PackedLinear) for module in model.modules()),
            weight_mb=round(nbytes / 1e6, 1), peak_memory_mb=round(peaks[way] / 1e6, 1),
            bandwidth_gb_s=round(bandwidth / 1e9, 1), of_floor=round(nbytes / bandwidth / seconds, 3),
        )  # fmt: skip


if __name__ == "__main__":
    main()
