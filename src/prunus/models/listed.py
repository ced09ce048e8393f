"""Experts that are modules in a list, as models with code of their own have them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import nn

from ..core.site import Site
from .sites import is_list_of_like


class Entry(NamedTuple):
    """A module's place in a list of like modules inside a block: its number in the list at the path ``owner``."""

    owner: str
    number: int

    @classmethod
    def of(cls, block: nn.Module, path: str) -> Entry | None:
        """The entry that holds the layer at ``path``; None where no such list does."""
        words = path.split(".")
        for k in range(len(words) - 1, 0, -1):
            if is_list_of_like(block.get_submodule(".".join(words[:k]))):
                return cls(".".join(words[:k]), int(words[k]))
        return None


def is_expert(block: nn.Module, site: Site) -> bool:
    """Whether a router may choose which tokens reach the Site: stacked experts, and layers in a list of like modules."""
    return site.layout.stacked or Entry.of(block, site.role) is not None


@contextmanager
def watched_entries(block: nn.Module, entries: Collection[Entry], called: Callable[[str], object],
                    everyone: bool) -> Iterator[None]:  # fmt: skip
    """Within this context ``called(owner)`` is told whenever a module of these entries' lists runs.

    With ``everyone`` the entries' modules also run on whatever the others in their list are called with.
    """

    def tell(owner: str, also: nn.Module | None) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            called(owner)
            if also is not None and module is not also:
                also(*args, **kwargs)

        return hook

    chosen = {entry.owner: entry for entry in entries}
    with ExitStack() as hooks:
        for owner, entry in chosen.items():
            modules = block.get_submodule(owner)
            also = modules.get_submodule(str(entry.number)) if everyone else None
            for module in modules.children():
                hooks.callback(module.register_forward_pre_hook(tell(owner, also), with_kwargs=True).remove)
        yield
