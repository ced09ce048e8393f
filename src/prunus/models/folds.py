"""Where an order of inputs folds into the layers before: rows of a producer and columns of its consumer, permuted alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.exchanged import exchanged
from ..core.site import Site

_GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("wi_0", "wi_1", "wo"))
_PLAIN = (("fc1", "fc2"), ("up_proj", "down_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("wi", "wo"))
_ATTENTION = (("v_proj", "o_proj"), ("v_proj", "out_proj"), ("v_proj", "dense"))
_TOLERANCE = 1e-4


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


def folds_of_block(block: nn.Module, sites: Sequence[Site], run: Callable[[], Tensor]) -> list[Fold]:
    """The folds among these Sites, each tried out: ``run()`` of the block must not change with the order of its channels.

    Producers with a bias, fused and stacked ones are left alone, and so is all that this does not recognise by name.
    """
    by_role = {
        site.role: site for site in sites if not (site.layout.stacked or site.layout.transposed or site.layout.parts)
    }
    expected = run()
    return [fold for fold in _candidates(block, by_role) if _holds(block, fold, run, expected)]


def _candidates(block: nn.Module, sites: dict[str, Site]) -> list[Fold]:
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
        for value, last in _ATTENTION:
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


@torch.no_grad()
def _holds(block: nn.Module, fold: Fold, run: Callable[[], Tensor], expected: Tensor) -> bool:
    """Whether the block gives the same with this fold's channels turned by one place."""
    order = torch.arange(fold.width).roll(1).repeat(fold.groups, 1)
    turned: list[tuple[nn.Parameter, Tensor]] = []
    for site in (*fold.producers, fold.consumer):
        weight: Any = block.get_submodule(site.role).weight
        index = order.to(weight.device)
        value = weight.data[:, fold.columns(index)] if site is fold.consumer else weight.data[fold.rows(index)]
        turned.append((weight, value))
    with exchanged(turned):
        given = run()
    return bool((given - expected).norm() <= _TOLERANCE * expected.norm())
