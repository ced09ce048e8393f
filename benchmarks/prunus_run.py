"""One run of prunus in a fresh process; prints one JSON line. Called by the benchmarks that measure time and memory."""

from __future__ import annotations

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  what a run imports, before its clock starts
from transformers.models.llama import modeling_llama  # noqa: F401

import prunus
from prunus.measure.memory import peak_memory_bytes


def main() -> None:
    """Prune as the options in the first argument say."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    transformers.logging.set_verbosity_error()
    imports = peak_memory_bytes()
    windows = options["batch"] * options["seqlen"]
    result = prunus.prune(
        options["model"], options["output"], method=options["method"], sparsity=options["sparsity"],
        calibration=options["windows"], batch_tokens=windows, dtype="float32", eval_windows=0, overwrite=True,
        **options.get("extra", {}),
    )  # fmt: skip
    record = result.record
    peak = peak_memory_bytes()
    print(json.dumps({
        "seconds": record["seconds_to_written"], "seconds_with_proof": record["seconds"],
        "peak_memory_bytes": record["peak_memory_bytes_to_written"],
        "peak_memory_bytes_with_proof": peak, "import_bytes": imports, "reload": record["proof"]["reload"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
