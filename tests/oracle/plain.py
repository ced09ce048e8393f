"""Plain, unoptimised one-shot pruning, straight from the papers: the whole model in memory, one layer at a time.

It shares no code with prunus. What prunus does fast and streamed must agree with this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def lowest(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest of a flat score vector, ties to the lower index."""
    drop = torch.zeros(scores.numel(), dtype=torch.bool)
    drop[scores.flatten().sort(stable=True).indices[:count]] = True
    return drop.view(scores.shape)


def lowest_of_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """True at the M − N lowest of every M consecutive inputs."""
    drop = torch.zeros_like(scores, dtype=torch.bool)
    for start in range(0, scores.shape[1], m):
        order = scores[:, start : start + m].sort(dim=1, stable=True).indices
        drop[:, start : start + m].scatter_(1, order[:, : m - n], True)
    return drop


def magnitude(weight: Tensor, gram: Tensor, sparsity: float, nm: tuple[int, int] | None) -> Tensor:
    scores = weight.abs()
    drop = lowest_of_groups(scores, *nm) if nm else lowest(scores, int(weight.numel() * sparsity))
    return weight.masked_fill(drop, 0)


def wanda(weight: Tensor, gram: Tensor, sparsity: float, nm: tuple[int, int] | None) -> Tensor:
    scores = weight.abs() * gram.diagonal().sqrt()
    if nm:
        return weight.masked_fill(lowest_of_groups(scores, *nm), 0)
    count = int(weight.shape[1] * sparsity)
    return torch.stack([row.masked_fill(lowest(s, count), 0) for row, s in zip(weight, scores, strict=True)])


def sparsegpt(weight: Tensor, gram: Tensor, sparsity: float, nm: tuple[int, int] | None,
              blocksize: int = 128, damp: float = 0.01) -> Tensor:  # fmt: skip
    weight, hessian = weight.clone(), gram.clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian += torch.eye(len(hessian)) * damp * hessian.diagonal().mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    columns = weight.shape[1]
    for left in range(0, columns, blocksize):
        right = min(left + blocksize, columns)
        errors = torch.zeros(weight.shape[0], right - left)
        drop = torch.zeros(weight.shape[0], right - left, dtype=torch.bool)
        if nm is None:
            scores = weight[:, left:right] ** 2 / inverse.diagonal()[left:right] ** 2
            drop = lowest(scores, int(scores.numel() * sparsity))
        for j in range(left, right):
            if nm is not None and j % nm[1] == 0:
                scores = weight[:, j : j + nm[1]] ** 2 / inverse.diagonal()[j : j + nm[1]] ** 2
                drop[:, j - left : j - left + nm[1]] = lowest_of_groups(scores, *nm)
            kept = weight[:, j].masked_fill(drop[:, j - left], 0)
            error = (weight[:, j] - kept) / inverse[j, j]
            weight[:, j + 1 : right] -= error[:, None] * inverse[j, j + 1 : right]
            weight[:, j] = kept
            errors[:, j - left] = error
        weight[:, right:] -= errors @ inverse[left:right, right:]
    return weight


def admm(weight: Tensor, gram: Tensor, choose: Callable[[Tensor], Tensor], damp: float, rho: float, growth: float,
         stages: Sequence[int], relaxation: float) -> Tensor:  # fmt: skip
    """Alternating directions in fp64: Ŵ minimises the error plus ρ/2 ‖Ŵ − Z + U‖², Z is the masked Ŵ + U, U what is left.

    Every input is scaled to unit energy; ``choose(weight)`` gives the survivors; ``stages`` are the alternations with each
    penalty ρ, from one to the next of which ρ grows, and U shrinks so that ρU stays.
    """
    hessian = gram.double() + damp * gram.double().diagonal().mean() * torch.eye(len(gram))
    scale = hessian.diagonal().sqrt()
    hessian = hessian / scale / scale[:, None]
    dense = weight.double() * scale
    split = dense * choose(dense / scale)
    dual = dense - split
    for number, steps in enumerate(stages):
        inverse = torch.linalg.inv(hessian + rho * torch.eye(len(gram)))
        for step in range(steps):
            found = (dense @ hessian + rho * (split - dual)) @ inverse
            found = relaxation * found + (1 - relaxation) * split
            if step == steps - 1 and number < len(stages) - 1:
                dual = dual / growth
            together = found + dual
            split = together * choose(together / scale)
            dual = together - split
        rho *= growth
    return split / scale


PLAIN = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}


class _Stop(Exception):
    pass


def first_layer_calls(model: nn.Module, windows: Tensor) -> tuple[list[Tensor], list[dict]]:
    """What the first decoder layer of a Llama-shaped model is called with, a window at a time."""
    hidden, kwargs = [], []

    def catch(module: nn.Module, args: tuple[Tensor, ...], kw: dict) -> None:
        hidden.append(args[0])
        kwargs.append(kw)
        raise _Stop

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for window in windows:
        try:
            model.model(input_ids=window[None], use_cache=False)
        except _Stop:
            continue
    handle.remove()
    return hidden, kwargs


@torch.no_grad()
def prune_plainly(model: nn.Module, windows: Tensor, method: str, sparsity: float, nm: tuple[int, int] | None) -> None:
    """Prune a Llama-shaped model in place, every layer on the inputs that the pruned layers before it give."""
    hidden, kwargs = first_layer_calls(model, windows)
    for layer in model.model.layers:
        linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        grams = {name: torch.zeros(m.in_features, m.in_features) for name, m in linears.items()}

        def watch(name: str, grams: dict[str, Tensor] = grams):
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                rows = args[0].reshape(-1, args[0].shape[-1]).float()
                grams[name] += rows.T @ rows

            return hook

        hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
        for states, call in zip(hidden, kwargs, strict=True) if method != "magnitude" else ():
            layer(states, **call)
        for hook in hooks:
            hook.remove()
        for name, module in linears.items():
            module.weight.data = PLAIN[method](module.weight.data, grams[name], sparsity, nm)
        if method != "magnitude":
            hidden = [layer(states, **call) for states, call in zip(hidden, kwargs, strict=True)]


@torch.no_grad()
def perplexity_plainly(model: nn.Module, windows: Tensor) -> float:
    """exp of the mean next-token loss, a window at a time through the whole model."""
    total, count = 0.0, 0
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1].double()
        total -= logits.log_softmax(-1).gather(1, window[1:, None]).sum().item()
        count += len(window) - 1
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
