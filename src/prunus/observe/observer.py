"""The observer: hooks on a block's linears that turn what flows through them into Stats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..models.experts import ExpertObserver, OneByOne, observed_experts
from ..models.listed import Entry, watched_entries
from .beside import Beside
from .tally import Tally
from .waves import Wave


class _EnoughError(Exception):
    """The last Site of a forward pass has been reached: what comes after it in the block is not needed."""


class Observed(NamedTuple):
    """Sites that share an input, and its Stats; ``routed`` where not every token of the block came by."""

    sites: list[Site]
    stats: Stats
    routed: bool


class Observer:
    """Within its context, forward passes of ``block`` fill one Tally for each distinct input that Sites read.

    Sites that are handed the same tensor share a Tally. The wave's experts narrow its stacked Sites to some of theirs.
    ``calls`` is how often Sites are reached in one pass, where that is known: a pass ends with the last of them, unless it
    is wanted ``to_the_end``. It is found by the first pass otherwise. Before a pass the block may be run on the dense
    model's hidden states, so that what Sites are handed is set beside what they are handed there; not for experts, who get
    other tokens there. ``streams`` say, by role, which module is handed the residual stream that a Site's output is added
    to.
    """

    def __init__(self, block: nn.Module, prefix: str, wave: Wave, needs: Needs, calls: int | None = None,
                 streams: Mapping[str, str] | None = None, to_the_end: bool = False) -> None:  # fmt: skip
        self.block = block
        self.prefix = prefix
        self.wave = wave
        self.sites = {site.name: site for site in wave.sites}
        self.entries = {name: Entry.of(block, self._path(site)) for name, site in self.sites.items()}
        self.needs = needs
        self.tallies: list[Tally] = []
        self._owner: dict[str, Tally] = {}
        self._seen: list[tuple[Tensor, Tally]] = []
        by_role = streams or {}
        self.beside = Beside(block, {site.name: by_role[site.role] for site in wave.sites if site.role in by_role})
        self.calls = calls
        self.to_the_end = to_the_end
        self._reached = 0
        self._called: set[str] = set()
        self._tokens = 0
        self._one_by_one: OneByOne | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Observer:
        modules = {self._path(site): site for site in self.sites.values() if not site.layout.stacked}
        for path, module in self.block.named_modules():
            if path in modules:
                self._stack.callback(self._hook(module, modules[path]))
        for remove in self.beside.hooks(self.sites):
            self._stack.callback(remove)
        if any(site.layout.stacked for site in self.sites.values()):
            everyone = (self.wave.experts or ()) if self.wave.everyone else ()
            self._one_by_one = self._stack.enter_context(observed_experts(self.block, self._expert_observer, everyone))
        entries = {entry for entry in self.entries.values() if entry is not None}
        if entries:
            self._stack.callback(self.block.register_forward_pre_hook(self._count, with_kwargs=True).remove)
            self._stack.enter_context(watched_entries(self.block, entries, self._called.add, self.wave.everyone))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def watch(self, run: Callable[[], object], dense: Callable[[], object] | None = None) -> None:
        """One forward pass, ``run()``, over a batch of inputs; ``dense()`` is the same in the dense model, to its end."""
        self._reached = 0
        if dense is not None:
            with self._one_by_one.paused() if self._one_by_one is not None else nullcontext():
                self.beside.record(dense)
        try:
            run()
        except _EnoughError:
            pass
        finally:
            self._seen.clear()
            self.beside.forget()
        if self.calls is None and not any(site.layout.stacked or self.entries[name] for name, site in self.sites.items()):
            self.calls = self._reached

    def result(self) -> list[Observed]:
        """Sites grouped by the input they share, each group with its Stats.

        Experts in a list that no token reached have empty Stats.

        Raises:
            UnsupportedModelError: if any other Site was never reached.
        """
        for name, entry in self.entries.items():
            if entry is not None and entry.owner in self._called and name not in self._owner:
                self._new(self.sites[name], next(self.block.parameters()).device)
        unreached = [name for name in self.sites if name not in self._owner]
        if unreached:
            raise UnsupportedModelError(
                f"{unreached[0]}: its forward never ran ({len(unreached)} such in this block), so nothing is known of its "
                "inputs. Leave it out with --exclude."
            )
        return [Observed(tally.sites, tally.stats(), self._is_routed(tally)) for tally in self.tallies]

    def _is_routed(self, tally: Tally) -> bool:
        site = tally.sites[0]
        return site.layout.stacked or (self.entries[site.name] is not None and int(tally.tokens[0]) != self._tokens)

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the tokens that the block is called with."""
        if self.beside.recording:
            return
        hidden = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        self._tokens += hidden.shape[:-1].numel()

    def _hook(self, module: nn.Module, site: Site) -> Callable[[], None]:
        """See what the Site is handed, and what it gives where that is added to a stream; takes the hook away."""
        if site.name in self.beside.streams:
            return module.register_forward_hook(lambda _module, args, output: self._reach(site, args[0], output)).remove
        return module.register_forward_pre_hook(lambda _module, args: self._reach(site, args[0], None)).remove

    def _reach(self, site: Site, inputs: Tensor, output: Tensor | None) -> None:
        if self.beside.recording:
            if self.entries[site.name] is None:
                self.beside.keep(site, inputs, output)
            return
        known = next((tally for tensor, tally in self._seen if tensor is inputs), None)
        tally = known or self._owner.get(site.name) or self._new(site, inputs.device)
        if self._owner.setdefault(site.name, tally) is not tally:
            raise UnsupportedModelError(f"{site.name}: shares its input with others in one pass, but not in the next.")
        if site not in tally.sites:
            tally.sites.append(site)
        if known is None:
            tally.add(0, inputs, self.beside.above(site, inputs, output))
            self._seen.append((inputs, tally))
        self._reached += 1
        if not self.to_the_end and self._reached == self.calls and len(self._owner) == len(self.sites):
            raise _EnoughError

    def _new(self, site: Site, device: torch.device) -> Tally:
        """A Tally of the Site's own, which others may come to share."""
        narrowed = self.wave.experts is not None and site.layout.stacked
        batch = len(self.wave.experts or ()) if narrowed else site.batch
        tally = self._owner[site.name] = Tally(batch, site.cols, self.needs, device, [site])
        self.tallies.append(tally)
        return tally

    def _expert_observer(self, module: nn.Module) -> ExpertObserver | None:
        path = next(name for name, inner in self.block.named_modules() if inner is module)
        inside = [site for site in self.sites.values() if self._path(site) == path and site.layout.stacked]
        experts = self.wave.experts if self.wave.experts is not None else range(len(module.down_proj))  # type: ignore[arg-type]
        places = {expert: place for place, expert in enumerate(experts)}
        by_role = {site.role.rpartition(".")[2]: site for site in inside}
        if not by_role:
            return None

        def observe(role: str, expert: int, inputs: Tensor) -> None:
            site = by_role.get(role)
            if site is None or self.beside.recording:
                return
            tally = self._owner.get(site.name) or self._new(site, inputs.device)
            if expert in places:
                tally.add(places[expert], inputs)

        return observe

    def _path(self, site: Site) -> str:
        """Path of the Site's module inside its block."""
        return site.parameter.rpartition(".")[0].removeprefix(self.prefix).removeprefix(".")
