"""Presets: well-known methods as one choice on every axis. ``--method`` names one; any axis can still be set alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Axis choices in the command line's own spelling (``name:option=value,…``).

    The allocation is for patterns that can be as sparse as one likes: N:M stays what was asked for in every layer.
    """

    criterion: str
    pattern: str
    allocation: str
    solver: str
    about: str
    target: str = "sparse"
    grid: str = "none"
    stages: tuple[str, ...] = ()
    own_text: float = 0.0
    true_sequential: bool = False
    temper: float = 1.0


_OWL = "owl:outlier=10,width=0.12"
_SHORT_ADMM = "admm:steps=4,rho=1,penalties=1"

PRESETS: dict[str, Preset] = {
    "magnitude": Preset("magnitude", "unstructured:scope=layer", "uniform", "keep",
                        "smallest weights of each layer; no data, seconds"),
    "wanda": Preset("wanda", "unstructured:scope=row", "uniform", "keep",
                    "weight times input norm, compared within each output row; two passes over little text"),
    "sparsegpt": Preset("obs", "unstructured:scope=layer", "uniform", "sparsegpt",
                        "optimal-brain-surgeon choice and repair of the survivors, left to right"),
    "fast": Preset("wanda", "unstructured:scope=row", "uniform", "keep",
                   "what Wanda does: no repair, little text needed"),
    "balanced": Preset("wanda", "unstructured:scope=layer", _OWL, _SHORT_ADMM,
                       "masks and survivors found together by ADMM, aimed in part at the dense model's outputs, on "
                       "tempered Grams; blocks with more outliers keep more; for N:M inputs in a good order",
                       target="dense", own_text=0.25, stages=("permute",), temper=0.8),
    "best": Preset("wanda", "unstructured:scope=layer", _OWL, _SHORT_ADMM,
                   "balanced, with layers solved in turn and blocks tuned against the dense model",
                   target="dense", own_text=0.25, stages=("permute", "match"), true_sequential=True, temper=0.8),
}  # fmt: skip
