"""How sparse each input of a block is to be, found one raise at a time (arXiv:2408.14690, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

MOST = 0.99
"""No input is made sparser: a layer without any input computes nothing."""


def greedy_levels(nbytes: Mapping[str, int], sparsity: float, step: float,
                  error: Callable[[Mapping[str, float]], float]) -> dict[str, float]:  # fmt: skip
    """Levels of the inputs at which together a share ``sparsity`` (at most :data:`MOST`) of the weights' bytes is not read.

    ``nbytes`` are those of the layers that read each input. From zero on the level is raised of that input whose raise
    costs the block's output least (``error``, of levels) for each byte that it saves; a raise saves the share ``step`` of
    all bytes, the last one what is left. With equal raises that is the input at which the error is least afterwards, as in
    the paper; only an input that nears :data:`MOST` is raised by less.
    """
    total = sum(nbytes.values())
    levels = dict.fromkeys(nbytes, 0.0)
    left, now = sparsity * total, error(levels)
    while left > 1e-9 * total:
        amounts = {name: min(step * total, left, (MOST - levels[name]) * size) for name, size in nbytes.items()}
        raised = {
            name: {**levels, name: levels[name] + amount / nbytes[name]}
            for name, amount in amounts.items()
            if amount > 1e-12 * total
        }
        if not raised:
            raise ValueError(f"a share of {sparsity} cannot be left out: inputs go up to {MOST}")
        errors = {name: error(trial) for name, trial in raised.items()}
        best = min(raised, key=lambda name: (errors[name] - now) / amounts[name])
        left, levels, now = left - amounts[best], raised[best], errors[best]
    return levels
