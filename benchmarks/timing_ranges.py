"""How often a timing's range holds the median of another measurement of the same.

    python benchmarks/timing_ranges.py MODEL [MEASUREMENTS]

Each measurement is what ``prunus compare`` does: rounds in two sittings, with other work between them. Of the same rounds
the first five alone stand beside all ten, and every measurement's range is asked for every other's median.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import permutations
from pathlib import Path

import torch

import prunus
from prunus.core.progress import Silent
from prunus.models.locate import locate
from prunus.models.reload import load_whole
from prunus.runtime.decode import Decoded, timed
from prunus.verbs.compare_running import Ran
from prunus.verbs.turns import Turns
from rows import Rows

FEW, ROUNDS = 5, 10  # a sitting, two
PROMPT, NEW = 128, 32


def main() -> None:
    """A row for each way to time and what was timed."""
    name, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8
    model = load_whole(locate(name), torch.bfloat16)[0]
    prompt = torch.randint(0, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    measured: list[list[Decoded]] = []
    for _ in range(count):
        turns = Turns([partial(timed, model, prompt, NEW)], ROUNDS)
        turns.first_sitting(Silent())
        prunus.compare(name, quality_only=True, windows=4)
        turns.second_sitting(Silent())
        measured.append(turns.runs[0])
    rows = Rows(Path(__file__).parent / "rows" / "timing_ranges.jsonl")
    for way, rounds in (("five rounds, one sitting", FEW), ("ten rounds, two sittings", ROUNDS)):
        ran = [Ran(runs[:rounds], PROMPT) for runs in measured]
        for what, timings in (("prompt", [one.prefill for one in ran]), ("decoding", [one.decode for one in ran])):
            found = [timing for timing in timings if timing is not None]
            pairs = list(permutations(found, 2))
            held = sum(one.least <= other.median <= one.most for one, other in pairs)
            rows.add(
                model=name, way=way, what=what, measurements=count, pairs=len(pairs), held=held, share=held / len(pairs),
                medians=[round(one.median, 2) for one in found], threads=torch.get_num_threads(),
            )  # fmt: skip


if __name__ == "__main__":
    main()
