"""The dense model beside the pruned one: what a Site is handed there, and what stands behind it, above what it is here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..core.site import Site
from ..models.residual import handed


class Above(NamedTuple):
    """What the dense model has above the pruned one, ``value [.. width]``, and the moment of Stats that it makes."""

    moment: str
    value: Tensor


class Beside:
    """Keeps what flows while a block is run on the dense model's hidden states, to set it against the run that follows.

    Of a Site that ``streams``, by name, gives the path of a module for, that is the residual stream behind the Site: what
    that module is handed, plus the Site's output. Of any other it is the Site's input.
    """

    def __init__(self, block: nn.Module, streams: Mapping[str, str]) -> None:
        self.block = block
        self.streams = streams
        self.recording = False
        self._kept: dict[str, list[Tensor]] = defaultdict(list)
        self._stream: dict[str, Tensor] = {}

    def hooks(self, sites: Mapping[str, Site]) -> list[Callable[[], None]]:
        """Hook the modules that are handed the streams; calls that take the hooks away."""
        found = []
        for path, width in {(path, sites[name].rows) for name, path in self.streams.items()}:

            def hook(_module: nn.Module, args: Any, kwargs: Any, path: str = path, width: int = width) -> None:
                stream = handed(args, kwargs, width)
                if stream is not None:
                    self._stream[path] = stream.clone()  # some blocks add to what they were given

            found.append(self.block.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True).remove)
        return found

    def record(self, run: Callable[[], object]) -> None:
        """Run the block on the dense model's hidden states."""
        self.recording = True
        try:
            run()
        finally:
            self.recording = False

    def keep(self, site: Site, inputs: Tensor, output: Tensor | None) -> None:
        """Keep what a Site was handed and gave there."""
        self._kept[site.name].append(self._value(site, inputs, output))

    def above(self, site: Site, inputs: Tensor, output: Tensor | None) -> Above | None:
        """The difference to what it is handed and gives here; None where nothing was kept."""
        kept = self._kept.get(site.name)
        if not kept:
            return None
        return Above("drift" if output is None else "behind", kept.pop(0) - self._value(site, inputs, output))

    def forget(self) -> None:
        """Forget what was kept: the next batch is another."""
        self._kept.clear()
        self._stream.clear()

    def _value(self, site: Site, inputs: Tensor, output: Tensor | None) -> Tensor:
        return inputs if output is None else self._stream[self.streams[site.name]].view_as(output) + output
