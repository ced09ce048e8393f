"""How much faster cut models are on this machine, each against its dense model in turns: Llama shapes and ResNet-18.

    python benchmarks/cut_speed.py

Weights are random, which dense products do not notice. A Llama stack has 12 blocks of hidden width 1024, 16 heads of 64 (8
key/value heads), 2816 neurons; a prompt of 512 tokens, batch 1, fp32. ResNet-18 is that of torchvision (3 × 224 × 224, 1000
classes), batch 8. Appends one row a model to ``benchmarks/rows/cut_speed.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

import prunus
from rows import Rows

TURNS = 9
Run = Callable[[], Any]


def main() -> None:
    """Measure everything once more."""
    rows = Rows(Path(__file__).parent / "rows" / "cut_speed.jsonl")
    dense = llama(12, 16, 2816)
    ids = torch.randint(0, 1000, (1, 512), generator=torch.Generator().manual_seed(0))
    shape: dict[str, Any] = {
        "blocks": 12, "width": 1024, "heads": 16, "kv_heads": 8, "neurons": 2816, "batch": 1, "tokens": 512,
    }  # fmt: skip
    for name, limit, other in (("half the neurons and half the heads", 0.6, llama(12, 8, 1408)),
                               ("half the blocks", 0.55, llama(6, 16, 2816))):  # fmt: skip
        add(rows, name, limit, shape, partial(dense, input_ids=ids), partial(other, input_ids=ids))
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    whole, cut = resnet18(), resnet18()
    found = prunus.shrink_module(cut, images[:1], 0.5)
    shape = {"batch": 8, "image": 224, "parameters": list(found.parameters)}
    add(rows, "ResNet-18, half the channels", 0.45, shape, partial(whole, images), partial(cut, images))


def llama(blocks: int, heads: int, neurons: int) -> Any:
    """The stack without a head."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(vocab_size=1000, hidden_size=1024, num_attention_heads=heads, num_key_value_heads=heads // 2,
                         head_dim=64, intermediate_size=neurons, num_hidden_layers=blocks, use_cache=False)  # fmt: skip
    return LlamaModel(config).eval()


def resnet18() -> nn.Module:
    """ResNet-18 with the shapes of torchvision's, from transformers."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
                          return_dict=False)  # fmt: skip
    config.num_labels = 1000
    torch.manual_seed(0)
    model: nn.Module = ResNetForImageClassification(config).eval()
    return model


@torch.no_grad()
def add(
    rows: Rows, name: str, limit: float, shape: dict[str, Any], dense: Callable[[], Any], cut: Callable[[], Any]
) -> None:
    """Time the dense model and the cut one in turns and write the row."""
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for run, times in zip((dense, cut), spent, strict=True):
            start = perf_counter()
            run()
            if turn:
                times.append(perf_counter() - start)
    one, two = map(median, spent)
    rows.add(name=name, **shape, threads=torch.get_num_threads(), dense_seconds=one, cut_seconds=two, ratio=two / one)
    print(f"{name}: {two / one:.3f} of {one * 1e3:.0f} ms (wanted: at most {limit})")


if __name__ == "__main__":
    main()
