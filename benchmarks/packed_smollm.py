"""SmolLM2-135M pruned, packed in several ways, and run: bytes, tokens a second beside dense, and what running it so costs.

    python benchmarks/packed_smollm.py FOLDER

FOLDER keeps the pruned models. ``kl`` is the mean KL(unpacked in fp32 ‖ as it runs) a token on held-out text, read 32
tokens at a time through the cache, so that the kernels are used; speed is ``prunus.bench``'s, each layer in the faster way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import prunus
from prunus.core.progress import Silent
from prunus.measure.quality import Divergence
from prunus.models.tokens import load_tokenizer
from prunus.observe.text import read_text
from prunus.runtime.load import load_packed
from prunus.runtime.ways import WAYS, float32
from quality import MODEL
from rows import Rows

PRUNED: dict[str, dict[str, Any]] = {
    "50": {"sparsity": 0.5},
    "2-4": {"sparsity": "2:4"},
    "2-4-int4": {"sparsity": "2:4", "grid": "int:bits=4,group=64"},
}
PACKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("50", {}),
    ("50", {"values": "bfloat16"}),
    ("50", {"values": "int8", "head": "int8"}),
    ("2-4", {"values": "int8", "head": "int8"}),
    ("2-4-int4", {"head": "int8"}),
)
CHUNK, WINDOWS, SEQLEN = 32, 4, 256


@torch.inference_mode()
def divergence(folder: Path) -> tuple[float, float]:
    """KL and agreement of the model as it runs against the same weights in fp32."""
    loaded = load_packed(folder, Silent())
    dense = float32(loaded.model)
    if loaded.model.config.tie_word_embeddings:
        dense.lm_head = torch.nn.Linear(1, 1, bias=False)
        dense.lm_head.weight = dense.get_input_embeddings().weight
    tokenizer: Any = load_tokenizer(folder)
    ids = tokenizer(read_text("factbook-heldout"), return_tensors="pt")["input_ids"]
    ids = ids[:, : WINDOWS * SEQLEN].view(WINDOWS, SEQLEN)
    found = Divergence()
    for window in ids.split(1):
        caches: list[Any] = [None, None]
        for chunk in window.split(CHUNK, dim=1):
            outputs = [
                model(chunk, past_key_values=cache, use_cache=True)
                for model, cache in zip((dense, loaded.model), caches, strict=True)
            ]
            caches = [output.past_key_values for output in outputs]
            found.add(outputs[0].logits, outputs[1].logits)
    return found.kl, found.agreement


def pruned(place: Path, name: str) -> Path:
    """SmolLM2 pruned as :data:`PRUNED` says, made if it is not there yet."""
    if not (place / name).exists():
        prunus.prune(MODEL, place / name, samples=64, seqlen=256, eval_windows=8, **PRUNED[name])
    return place / name


def main() -> None:
    """Prune what is not there yet, pack, run."""
    place, threads = Path(sys.argv[1]), torch.get_num_threads()
    for name, settings in PACKED:
        told = prunus.pack(pruned(place, name), place / "packed", overwrite=True, **settings)
        bench = prunus.bench(place / "packed", ways=list(WAYS), prompt_tokens=32, new_tokens=24, repeats=7)
        kl, agreement = divergence(place / "packed")
        said = prunus.generate(place / "packed", ["The capital of France is"], new_tokens=24).texts[0]
        speeds = {way.name: round(way.decode_tokens_per_second.median, 2) for way in bench.ways}
        Rows(Path(__file__).parent / "rows" / "runtime.jsonl").add(
            benchmark="smollm", pruned=name, settings=settings, threads=threads, kernels=bench.backend,
            plain_mb=round(told.plain_bytes / 1e6, 2), packed_mb=round(told.packed_bytes / 1e6, 2),
            planned_mb=round(told.planned_bytes / 1e6, 2), tokens_per_second=speeds,
            spread={way.name: [round(way.decode_tokens_per_second.least, 2), round(way.decode_tokens_per_second.most, 2)]
                    for way in bench.ways},
            packed_layers=bench.packed_layers, linear_layers=bench.linear_layers, kl=kl, agreement=agreement, said=said,
        )  # fmt: skip


if __name__ == "__main__":
    main()
