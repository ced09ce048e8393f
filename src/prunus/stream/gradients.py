"""Gradients of the dense model's loss with respect to every Site, block by block, one block in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.differentiable import differentiable
from ..core.errors import NumericalError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.progress import Progress
from ..core.site import Site
from ..core.stats import Needs
from .scratch import folder_of, full_disk_told
from .sources import Source
from .state import State
from .trunk import Limits, Trunk

WEIGHT_MOMENTS = {"grad": Needs.GRAD, "grad_sq": Needs.GRAD_SQ}


class Gradients:
    """Moments of the weights by Site: ``grad``, the gradient of the summed token loss, and ``grad_sq``, its squares window
    by window. Computed when first asked for, kept in a temporary folder.

    Going forward, what enters every block is written down; going back, every block is run once more with gradients, from
    the last to the first. That takes disk for the hidden states of all blocks, and memory for one.
    """

    def __init__(self, source: Source, sites: Sequence[Site], windows: Tensor, needs: Needs, limits: Limits,
                 progress: Progress) -> None:  # fmt: skip
        self.source = source
        self.sites = sites
        self.windows = windows
        self.names = [name for name, need in WEIGHT_MOMENTS.items() if need in needs]
        self.limits = limits
        self.progress = progress
        self._folder: Path | None = None

    def of(self, site: Site) -> Mapping[str, Tensor]:
        """Every moment ``[batch rows cols]`` of a Site's weight, in fp32; none where no gradients are needed."""
        self.collect()
        if self._folder is None:
            return {}
        files = {name: str(self._folder / _file(site, name)) for name in self.names}
        flat = {name: torch.from_file(file, size=site.numel) for name, file in files.items()}
        return {name: moment.view(site.shape).to(self.source.device) for name, moment in flat.items()}

    def collect(self) -> None:
        """Take the gradients now, if any are needed and they have not been taken yet; no block may be in use."""
        if self.names and self._folder is None:
            folder = folder_of(self)
            self._collect(folder)
            self._folder = folder

    @full_disk_told()
    def _collect(self, folder: Path) -> None:
        """Write every Site's moments.

        Raises:
            UnsupportedModelError: if the model predicts no next token, blocks hand each other more than hidden states, or a
                Site is outside the blocks.
            NumericalError: if logits or gradients are NaN or Inf.
            OutputError: if the disk beneath the temporary files is full.
        """
        if not self.source.continues_text:
            raise UnsupportedModelError(
                f"{type(self.source.model).__name__}: gradients are those of the next token's loss, which only a decoder "
                "with its language-model head has. Choose another criterion."
            )
        tokens = self.windows.shape[1] if "grad_sq" in self.names else self.limits.batch_tokens
        trunk = Trunk(self.source, self.windows, tokens, self.limits.budget, folder)
        trunk.embed()
        trunk.require_plain(
            self.sites,
            "gradients are taken block by block, for one stack of blocks that hand on hidden states alone. Choose another "
            "criterion, or leave it out with --exclude.",
        )
        blocks = len(self.source.blocks)
        self.progress.start("Gradients", 2 * blocks)
        for index in range(blocks):
            trunk.state.save(folder / f"entering-{index}.bin")
            trunk.advance(self.source.load(index), index)
            self.source.release(index)
            self.progress.step()
        grads = self._at_the_end(trunk, folder)
        for index in reversed(range(blocks)):
            trunk.state.restore(folder / f"entering-{index}.bin")
            (folder / f"entering-{index}.bin").unlink()
            self._back(trunk, grads, index, folder)
            self.source.release(index)
            self.progress.step()
        trunk.close()
        grads.close()

    def _at_the_end(self, trunk: Trunk, folder: Path) -> State:
        """The loss's gradient with respect to what leaves the last block, token losses summed."""
        grads = State(trunk.state.shape, torch.float32, self.limits.budget, folder, "gradients")
        self.source.load_outside(head=True)
        for k in range(len(self.windows)):
            window = slice(k, k + 1)
            hidden = trunk.state.read(window, self.source.device).requires_grad_(True)
            with torch.enable_grad():
                logits = trunk.dense_head(window, hidden)
                ids = self.windows[window, 1:].to(logits.device)
                loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids.flatten(), reduction="sum")
            grads.write(window, torch.autograd.grad(loss, hidden)[0])
        self.source.release_outside()
        grads.advance()
        return grads

    def _back(self, trunk: Trunk, grads: State, index: int, folder: Path) -> None:
        """Take the gradient through one block, and write the moments of its Sites."""
        block = self.source.load(index)
        sites = [site for site in self.sites if site.block == index]
        parameters: list[nn.Parameter] = [self.source.model.get_parameter(site.parameter) for site in sites]
        totals = {
            (site.name, name): torch.zeros(parameter.shape, device=parameter.device)
            for site, parameter in zip(sites, parameters, strict=True)
            for name in self.names
        }
        with differentiable(parameters):
            for number, batch in enumerate(trunk.batches):
                hidden = trunk.state.read(batch, self.source.device).requires_grad_(True)
                with torch.enable_grad():
                    output = trunk.run(block, index, number, hidden).hidden
                behind = grads.read(batch, self.source.device).to(output.dtype)
                before, *found = torch.autograd.grad(output, [hidden, *parameters], behind, allow_unused=True)
                grads.write(batch, before.float())
                for site, grad in zip(sites, found, strict=True):
                    for name in self.names if grad is not None else ():
                        totals[site.name, name] += grad.float() if name == "grad" else grad.float().square()
        grads.advance()
        for site in sites:
            for name in self.names:
                if not all_finite(totals[site.name, name]):
                    raise NumericalError(
                        f"{site.name}: the gradient of the loss, or its square, overflows. With float16 try --dtype "
                        "float32."
                    )
                matrix = site.layout.to_matrix(totals[site.name, name]).contiguous().cpu()
                matrix.numpy().tofile(folder / _file(site, name))


def _file(site: Site, name: str) -> str:
    return f"{site.name}.{name}"
