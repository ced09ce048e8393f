"""Where an order of inputs folds into the layers before: rows of a producer and columns of its consumer, permuted alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.exchanged import exchanged
from ..core.site import Site
from .near import near

_GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("wi_0", "wi_1", "wo"))
_PLAIN = (("fc1", "fc2"), ("up_proj", "down_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("wi", "wo"))
_ATTENTION = (("v_proj", "o_proj"), ("v_proj", "out_proj"), ("v_proj", "dense"))


@dataclass(frozen=True)
class Fold:
    """Channels ``d`` of each of ``groups`` may change places: column (g, r, d) of the ``consumer`` for every copy r, and
    row (g, d) of every producer. ``copies`` are the query heads of a key/value head, else 1.
    """

    consumer: Site
    producers: tuple[Site, ...]
    groups: int
    copies: int

    @property
    def geometry(self) -> tuple[tuple[str, ...], int, int, int]:
        """What folds of several blocks may have in common: roles, groups, copies and width."""
        return (self.consumer.role, *(site.role for site in self.producers)), self.groups, self.copies, self.width

    @property
    def width(self) -> int:
        """Channels of a group."""
        return self.consumer.cols // (self.groups * self.copies)

    def columns(self, order: Tensor) -> Tensor:
        """Where each column of the consumer comes from, for the ``order [groups width]`` of the channels."""
        start = torch.arange(self.groups * self.copies, device=order.device).view(self.groups, self.copies, 1) * self.width
        return (start + order.unsqueeze(1)).flatten()

    def rows(self, order: Tensor) -> Tensor:
        """Where each row of a producer comes from."""
        return (torch.arange(self.groups, device=order.device).unsqueeze(1) * self.width + order).flatten()


def folds_of_block(block: nn.Module, all_sites: Sequence[Site], of_values: bool = True) -> list[Fold]:
    """The folds that these Sites most likely have, by their names; :func:`holds` tries one out.

    Producers with a bias, fused and stacked ones are left alone, and so is all that this does not recognise. ``of_values``:
    attention's too, not for blocks whose values other blocks read.
    """
    sites = {
        site.role: site for site in all_sites if not (site.layout.stacked or site.layout.transposed or site.layout.parts)
    }
    found: dict[str, Fold] = {}
    for path, module in block.named_modules():
        prefix = f"{path}." if path else ""
        for *names, last in (*_GATED, *_PLAIN):
            wanted = [sites.get(prefix + name) for name in (*names, last)]
            complete = [site for site in wanted if site is not None]
            if len(complete) == len(wanted) and prefix + last not in found:
                *producers, consumer = complete
                if all(site.rows == consumer.cols and _has_no_bias(block, site) for site in producers):
                    found[prefix + last] = Fold(consumer, tuple(producers), 1, 1)
        for value, last in _ATTENTION if of_values else ():
            producer, out = sites.get(prefix + value), sites.get(prefix + last)
            width = getattr(module, "head_dim", None)
            if producer is None or out is None or not isinstance(width, int) or not _has_no_bias(block, producer):
                continue
            groups = producer.rows // width
            if producer.rows % width == 0 and groups and out.cols % producer.rows == 0:
                found.setdefault(prefix + last, Fold(out, (producer,), groups, out.cols // producer.rows))
    return list(found.values())


def _has_no_bias(block: nn.Module, site: Site) -> bool:
    return getattr(block.get_submodule(site.role), "bias", None) is None


def in_a_list(block: nn.Module, fold: Fold) -> bool:
    """Whether the fold is inside one module of a list, which not every run may reach."""
    names = fold.consumer.role.split(".")
    return any(isinstance(block.get_submodule(".".join(names[:k])), nn.ModuleList) for k in range(1, len(names)))


@torch.no_grad()
def holds(block: nn.Module, fold: Fold, run: Callable[[], Tensor]) -> bool:
    """Whether consumer and block give the same in ``run()`` of the block when this fold's channels are turned by one.

    Where a run does not reach the consumer it does not hold: nothing shows it.
    """
    order = torch.arange(fold.width).roll(1).repeat(fold.groups, 1)
    turned: list[tuple[nn.Parameter, Tensor]] = []
    for site in (*fold.producers, fold.consumer):
        weight: Any = block.get_submodule(site.role).weight
        index = order.to(weight.device)
        value = weight.data[:, fold.columns(index)] if site is fold.consumer else weight.data[fold.rows(index)]
        turned.append((weight, value))
    before = _outputs(block, fold.consumer, run)
    with exchanged(turned):
        after = _outputs(block, fold.consumer, run)
    called = len(before) == len(after) > 1
    return called and all(near(one, other, one) for one, other in zip(before, after, strict=True))


def _outputs(block: nn.Module, consumer: Site, run: Callable[[], Tensor]) -> list[Tensor]:
    """What the consumer gives whenever it is called in a run, and what the block gives."""
    found: list[Tensor] = []
    hook = block.get_submodule(consumer.role).register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        behind = run()
    finally:
        hook.remove()
    return [*found, behind]
