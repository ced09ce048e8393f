"""Whether what prunus cuts and exports to GGUF runs in llama.cpp as it does in Transformers.

    npm install --ignore-scripts --prefix NODE node-llama-cpp@3.22.1
    python benchmarks/llama_cpp.py --node NODE

SmolLM2-135M is cut along each axis, exported by ``prunus export --to gguf``, loaded by llama.cpp, and continues a prompt
greedily; Transformers does the same with the checkpoint. With ``--tiny`` it is tiny random models of every architecture
that is exported instead. Appends one row a model to ``benchmarks/rows/llama_cpp.jsonl``: how many tokens are the ``same``,
by how much the two likeliest logits differ where they are not, and whether llama.cpp cuts a text into the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from quality import MODEL
from rows import Rows

SHAPES: dict[str, list[str]] = {
    "whole": [],
    "neurons": ["--neurons=1024"],
    "heads": ["--heads=6"],
    "key/value heads": ["--kv-groups=2"],
    "width": ["--width=504"],
    "depth": ["--layers=-3", "--depth=influence"],
    "all of them": ["--neurons=1280", "--heads=6", "--width=504", "--layers=-2", "--depth=influence"],
}
PROMPT = "The capital of France is"
TEXT = "In 1998, the café's owner didn't pay 1,250 euros:\n\n  he (perhaps) forgot... 北京 😀"
TOKENS = 24


def main() -> None:
    """Cut, export, run, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", type=Path, required=True, help="the folder that node-llama-cpp was installed in")
    parser.add_argument("--only", choices=SHAPES, help="one of the shapes")
    parser.add_argument("--tiny", action="store_true", help="tiny models of every architecture")
    parser.add_argument("--dtype", default="auto", help="of the GGUF file")
    options = parser.parse_args()
    os.environ["PRUNUS_LLAMA_CPP"] = str(options.node)
    rows = Rows(Path(__file__).parent / "rows" / "llama_cpp.jsonl")
    if options.tiny:
        compare_tiny(rows)
        return
    for name, flags in SHAPES.items():
        if options.only not in (None, name) or rows.has(name=name, flags=flags, dtype=options.dtype):
            continue
        with tempfile.TemporaryDirectory() as folder:
            cut: Path | str = Path(folder) / "cut" if flags else MODEL
            if flags:
                run("shrink", MODEL, "-o", str(cut), *flags, "--samples=16", "--seqlen=256", "--eval-windows=0")
            told = run("export", str(cut), "-o", f"{folder}/gguf", "--to=gguf", f"--dtype={options.dtype}", "--json")
            found = compared(cut, Path(folder) / "gguf" / "model.gguf")
            check = json.loads(told)["checks"][0]
            rows.add(name=name, flags=flags, dtype=options.dtype, **found, kl=check["kl"], largest=check["largest"])


def run(*words: str) -> str:
    """What a prunus command says."""
    command = [sys.executable, "-W", "ignore", "-m", "prunus", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


def compare_tiny(rows: Rows) -> None:
    """Tiny random models of every architecture, as the tests export them."""
    tests = Path(__file__).parents[1] / "tests"
    sys.path[:0] = [str(tests), str(tests / "e2e")]
    from test_export_gguf import WAYS

    import prunus
    from prunus.observe.text import read_text
    from tiny import byte_level, model_of, sentencepiece_like

    for name, (family, changed) in WAYS.items():
        if rows.has(name=f"tiny {name}"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = model_of(family, **changed)
            for parameter, value in model.named_parameters():
                if parameter.endswith(".bias"):
                    torch.nn.init.normal_(value, std=0.3)
            model.save_pretrained(f"{folder}/model")
            made = sentencepiece_like if family in ("llama", "mistral") else byte_level
            made(read_text("factbook")[:60_000]).save_pretrained(f"{folder}/model")
            prunus.export(f"{folder}/model", f"{folder}/gguf", to="gguf")
            rows.add(name=f"tiny {name}", **compared(Path(folder) / "model", Path(folder) / "gguf" / "model.gguf"))


def compared(folder: Path | str, gguf: Path) -> dict[str, Any]:
    """The prompt continued by llama.cpp and by Transformers, and a text cut by both."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prunus.exports.llama_cpp import LlamaCpp
    from prunus.models.locate import locate

    place = locate(folder)
    tokenizer = AutoTokenizer.from_pretrained(place)
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    engine = LlamaCpp(gguf, threads=2, context=256)
    found = engine.decode(ids, TOKENS).ids[0].tolist()
    text = engine.ask({"text": TEXT})["ids"]
    engine.close()
    with torch.inference_mode():
        logits = model(torch.cat([ids, torch.tensor([found])], dim=1)).logits[0, ids.shape[1] - 1 : -1]
    same = next((k for k, token in enumerate(found) if int(logits[k].argmax()) != token), TOKENS)
    best = logits[min(same, TOKENS - 1)].topk(2).values
    own = tokenizer(TEXT, add_special_tokens=False).input_ids
    return {"tokens": TOKENS, "same": same, "gap": None if same == TOKENS else round(float(best[0] - best[1]), 4),
            "text_same": text == own, "gguf_bytes": gguf.stat().st_size}  # fmt: skip


if __name__ == "__main__":
    main()
