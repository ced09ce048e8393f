"""Whether what prunus cuts of a Llama model runs in llama.cpp as it does in Transformers.

    npm install --ignore-scripts --prefix NODE node-llama-cpp@3.22.1
    python benchmarks/llama_cpp.py --convert LLAMA_CPP/convert_hf_to_gguf.py --node NODE

SmolLM2-135M is cut along each axis, converted to GGUF by llama.cpp's own script (of the source package of llama-cpp-python,
for example; it wants ``pip install sentencepiece``), loaded by llama.cpp, and continues a prompt greedily; Transformers
does the same with the checkpoint. Appends one row a model to
``benchmarks/rows/llama_cpp.jsonl``: how many tokens are the same.
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
    "neurons": ["--neurons=1024"],
    "heads": ["--heads=6"],
    "key/value heads": ["--kv-groups=2"],
    "width": ["--width=504"],
    "depth": ["--layers=-3", "--depth=influence"],
    "all of them": ["--neurons=1280", "--heads=6", "--width=504", "--layers=-2", "--depth=influence"],
}
PROMPT = "The capital of France is"
TOKENS = 24
SCRIPT = """
import {getLlama} from "node-llama-cpp";
const [path, ids, count] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 256, threads: 2});
const found = [];
for await (const token of context.getSequence().evaluate(JSON.parse(ids), {temperature: 0})) {
    found.push(token);
    if (found.length >= Number(count)) break;
}
console.log(JSON.stringify(found));
process.exit(0);
"""


def main() -> None:
    """Cut, convert, run, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--convert", type=Path, required=True, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--node", type=Path, required=True, help="the folder that node-llama-cpp was installed in")
    options = parser.parse_args()
    rows = Rows(Path(__file__).parent / "rows" / "llama_cpp.jsonl")
    script = options.node / "continue.mjs"
    script.write_text(SCRIPT)
    for name, flags in SHAPES.items():
        if rows.has(name=name, flags=flags):
            continue
        with tempfile.TemporaryDirectory() as folder:
            cut, gguf = Path(folder) / "cut", Path(folder) / "cut.gguf"
            words = [
                "-m",
                "prunus",
                "shrink",
                MODEL,
                "-o",
                str(cut),
                *flags,
                "--samples=16",
                "--seqlen=256",
                "--eval-windows=0",
            ]
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            convert = [sys.executable, str(options.convert), str(cut), "--outfile", str(gguf), "--outtype", "f32"]
            source = os.pathsep.join([str(options.convert.parent / "gguf-py"), os.environ.get("PYTHONPATH", "")])
            subprocess.run(convert, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": source})
            ids, wanted = continued(cut)
            done = subprocess.run(
                ["node", str(script), str(gguf), json.dumps(ids), str(TOKENS)], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            same = next((k for k, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
            rows.add(name=name, flags=flags, tokens=len(wanted), same=same, gguf_bytes=gguf.stat().st_size)


def continued(folder: Path) -> tuple[list[int], list[int]]:
    """The prompt's ids and what Transformers continues them with, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0)
    return ids[0].tolist(), output[0, ids.shape[1] :].tolist()


if __name__ == "__main__":
    main()
