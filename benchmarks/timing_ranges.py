"""How often a timing's range holds the median of another measurement of the same.

    python benchmarks/timing_ranges.py MODEL [MEASUREMENTS] [ROUNDS]

``prunus compare MODEL`` is run so many times; each run's range is asked for the median of the runs right before and behind
it, and for that of every other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise, permutations
from pathlib import Path

import torch

import prunus
from prunus.cli.progress import Bars
from prunus.measure.timing import Timing
from rows import Rows


def main() -> None:
    """A row for what was timed."""
    name = sys.argv[1]
    count, rounds = (int(given) for given in (sys.argv[2:] + ["8", "10"][len(sys.argv) - 2 :])[:2])
    found = [prunus.compare(name, windows=8, repeats=rounds, progress=Bars()).dense for _ in range(count)]
    rows = Rows(Path(__file__).parent / "rows" / "timing_ranges.jsonl")
    timings = {
        "prompt": [side.prefill_tokens_per_second for side in found],
        "decoding": [side.decode_tokens_per_second for side in found],
    }
    for what, runs in timings.items():
        known = [timing for timing in runs if timing is not None]
        rows.add(
            model=name, what=what, measurements=count, rounds=rounds, held=held(permutations(known, 2)),
            held_next=held([*pairwise(known), *pairwise(known[::-1])]),
            medians=[round(one.median, 2) for one in known], least=[round(one.least, 2) for one in known],
            most=[round(one.most, 2) for one in known], threads=torch.get_num_threads(),
        )  # fmt: skip


def held(pairs: Iterable[tuple[Timing, Timing]]) -> float:
    """The share in which the one's range holds the other's median."""
    found = [one.least <= other.median <= one.most for one, other in pairs]
    return round(sum(found) / len(found), 3)


if __name__ == "__main__":
    main()
