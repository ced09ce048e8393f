"""Thresholds at work in a model: hooks that count small entries of its layers' inputs as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..core.errors import CheckpointError, UnsupportedModelError
from ..core.thresholds import ActivationUse, Skipped, Thresholds
from .sites import is_transposed_linear


class InputCut:
    """One input, cut at a threshold for all layers that are handed it; entries seen and counted as zero are kept."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.seen = self.skipped = 0
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, inputs: Tensor, tokens: int, dense_tokens: int) -> Tensor:
        """``inputs``, of which all but the first tokens of every window are cut."""
        if self._last is None or self._last[0] is not inputs:
            place = windows_of(inputs, tokens)[:, dense_tokens:]
            small = place.abs() <= self.threshold
            self.seen, self.skipped = self.seen + small.numel(), self.skipped + int(small.sum())
            cut = windows_of(inputs, tokens).clone()
            cut[:, dense_tokens:].masked_fill_(small, 0)
            self._last = (inputs, cut.reshape(inputs.shape))
        return self._last[1]

    def forget(self) -> None:
        """Let go of the last input."""
        self._last = None

    @property
    def sparsity(self) -> float:
        """The share of entries that counted as zero; 0 where none were seen."""
        return self.skipped / self.seen if self.seen else 0.0


def windows_of(inputs: Tensor, tokens: int) -> Tensor:
    """``[windows tokens cols]`` of an input ``[.. tokens cols]``, or of one that goes flat, ``[windows·tokens cols]``.

    Raises:
        UnsupportedModelError: if it has another.
    """
    if inputs.dim() > 2 and inputs.shape[-2] == tokens:
        return inputs.flatten(0, -3)
    if inputs.dim() == 2 and len(inputs) % tokens == 0:
        windows: Tensor = inputs.unflatten(0, (-1, tokens))
        return windows
    raise UnsupportedModelError(
        f"a linear layer is handed {list(inputs.shape)} where windows have {tokens} tokens: prunus cannot tell which entry "
        "belongs to which token, so that this model has no thresholds."
    )


class CutInputs:
    """Within this context (or until :meth:`close`) layers of a model's blocks compute on inputs cut at thresholds.

    ``groups`` are the paths of the layers that share an input, and its threshold; a block's path comes first in that of its
    layers. The first ``dense_tokens`` of every window are left as they are.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], groups: Sequence[tuple[Sequence[str], float]],
                 dense_tokens: int) -> None:  # fmt: skip
        self.dense_tokens = dense_tokens
        self.cuts = [InputCut(threshold) for _, threshold in groups]
        self._tokens = 0
        self._handles: list[Any] = []
        modules = {f"{prefix}.{path}": inner for prefix, block in blocks.items() for path, inner in block.named_modules()}
        for block in blocks.values():
            self._handles.append(block.register_forward_pre_hook(self._enter, with_kwargs=True))
        for (layers, _), cut in zip(groups, self.cuts, strict=True):
            for layer in layers:
                self._handles.append(modules[layer].register_forward_pre_hook(self._hook(cut)))

    def _hook(self, cut: InputCut) -> Any:
        return lambda _module, args: (cut(args[0], self._tokens, self.dense_tokens), *args[1:])

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        self._tokens = hidden.shape[1]
        for cut in self.cuts:
            cut.forget()

    def __enter__(self) -> CutInputs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        for cut in self.cuts:
            cut.forget()


class CutModel:
    """A model whose blocks compute on cut inputs as long as it lives, and what that comes to."""

    def __init__(self, blocks: Mapping[str, nn.Module], thresholds: Thresholds, file: str) -> None:
        self.thresholds, self.file = thresholds, file
        groups = [(tuple(one.layers), one.threshold) for one in thresholds.inputs]
        self.cuts = CutInputs(blocks, groups, thresholds.dense_tokens)

    def use(self) -> ActivationUse:
        """What was counted so far."""
        pairs = list(zip(self.thresholds.inputs, self.cuts.cuts, strict=True))
        total = self.thresholds.nbytes
        unread = sum(one.nbytes * cut.sparsity for one, cut in pairs)
        inputs = tuple(Skipped(tuple(one.layers), one.level, cut.sparsity) for one, cut in pairs)
        return ActivationUse(self.file, self.thresholds.dense_tokens, unread / total, total, round(unread), inputs)


def check_fits(thresholds: Thresholds, model: Any, fingerprint: str, label: str) -> None:
    """Raise CheckpointError if thresholds were found for another model than the one with this ``fingerprint``."""
    for one in thresholds.inputs:
        for path, shape in one.layers.items():
            try:
                module = model.get_submodule(path)
            except AttributeError:
                module = None
            found = None if module is None else _shape(module)
            if found != shape:
                held = "no such layer" if found is None else f"one of {found[0]}×{found[1]}"
                raise CheckpointError(
                    f"{label}: the thresholds are for a model with '{path}' of {shape[0]}×{shape[1]}, this one has {held}. "
                    "Find this model's own: prunus threshold."
                )
    if thresholds.fingerprint != fingerprint:
        raise CheckpointError(
            f"{label}: the thresholds were found for other weights of the same shapes (their checkpoint's fingerprint is "
            f"{thresholds.fingerprint[:12]}…, this one's {fingerprint[:12]}…). Find this model's own: prunus threshold."
        )


def _shape(module: Any) -> tuple[int, int] | None:
    """Outputs and inputs of a linear layer, packed or not."""
    if hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)
    return (int(module.weight.shape[1]), int(module.weight.shape[0])) if is_transposed_linear(module) else None
