"""Where blocks come from and go to: a checkpoint on disk, or a model already in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.ahead import Background
from ..checkpoint.source import Checkpoint
from ..checkpoint.writer import MirrorWriter
from ..core.errors import CheckpointError, NumericalError
from ..core.finite import all_finite
from ..core.site import Site
from ..models.names import NameMap, release, release_parameter
from ..models.sites import Found, check_apart, sites_of_block, sites_outside
from ..models.skeleton import Stack, build_skeleton, find_stacks, load_config


class Source(ABC):
    """A model whose blocks can be brought into memory one at a time."""

    model: Any
    device: torch.device
    _holds = False

    @contextmanager
    def held(self, most: int) -> Iterator[None]:
        """Within this context what was loaded stays so, if the whole model takes no more than ``most`` bytes."""
        self._holds = self.nbytes <= most
        try:
            yield
        finally:
            if self._holds:
                self._holds = False
                for index in range(len(self.blocks)):
                    self.release(index)
                self.release_outside()

    @contextmanager
    def held_outside(self) -> Iterator[None]:
        """Within this context what was loaded of what is outside the blocks stays in memory, and as it is."""
        before, self._holds = self._holds, True
        try:
            yield
        finally:
            self._holds = before

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all parameters in the dtype that they are computed with, in memory or not."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    @cached_property
    def continues_text(self) -> bool:
        """Whether the model predicts next tokens: a decoder with its language-model head."""
        return bool(self.model.can_generate()) and not self.model.config.is_encoder_decoder and not self.sees_ahead

    @cached_property
    def sees_ahead(self) -> bool:
        """Whether tokens see those behind them: an encoder, whatever head it has."""
        modules = [module for block in self.blocks for module in block.modules()]
        causal = {module.is_causal for module in modules if isinstance(getattr(module, "is_causal", None), bool)}
        return causal == {False} and not self.model.config.is_encoder_decoder  # cross-attention alone is not causal either

    @cached_property
    def stacks(self) -> list[Stack]:
        """The stacks of blocks in the order they run."""
        return find_stacks(self.model)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stacks in order; their weights may be absent."""
        return [block for stack in self.stacks for block in stack.blocks]

    @cached_property
    def _prefixes(self) -> list[str]:
        return [f"{stack.path}.{k}" for stack in self.stacks for k in range(len(stack.blocks))]

    def prefix(self, index: int) -> str:
        """Path of one block in the model."""
        return self._prefixes[index]

    def is_inside(self, name: str) -> bool:
        """Whether a module or parameter of this name belongs to a stack of blocks."""
        return f"{name}.".startswith(tuple(f"{stack.path}." for stack in self.stacks))

    @cached_property
    def found(self) -> list[Found]:
        """Sites and untouched matrices of every block.

        Raises:
            UnsupportedModelError: if blocks share parameters.
        """
        check_apart(self.blocks, self._prefixes)
        return [sites_of_block(block, self.prefix(k), k, self.stored_dtype) for k, block in enumerate(self.blocks)]

    @cached_property
    def outside(self) -> Found:
        """Embeddings and head, which are pruned only when named."""
        return sites_outside(self.model, [stack.path for stack in self.stacks], self.stored_dtype)

    @abstractmethod
    def stored_dtype(self, parameter: str) -> torch.dtype:
        """The dtype that a parameter has where it is kept."""

    @abstractmethod
    def load(self, index: int) -> nn.Module:
        """A block with its weights on the device."""

    @abstractmethod
    def expect(self, index: int) -> None:
        """This block will be loaded next: begin to read it in the background. Behind the last there is nothing to read."""

    def release(self, index: int) -> None:
        """The block's weights are no longer needed in memory, unless they are :meth:`held`."""
        if not self._holds:
            self._release(index)

    @abstractmethod
    def _release(self, index: int) -> None:
        """Free a block's weights."""

    @abstractmethod
    def matrix(self, site: Site) -> Tensor:
        """A Site's weight ``[batch rows cols]`` in fp32, whether its block is loaded or not."""

    @abstractmethod
    def load_outside(self, head: bool) -> None:
        """Bring what is outside the blocks (embeddings, final norm; the head if asked) to the device."""

    def release_outside(self) -> None:
        """What is outside the blocks is no longer needed in memory, unless it is :meth:`held`."""
        if not self._holds:
            self._release_outside()

    @abstractmethod
    def _release_outside(self) -> None:
        """Free what is outside the blocks."""

    @abstractmethod
    def put(self, weights: Mapping[Site, Tensor]) -> None:
        """Let the model compute with these pruned weights ``[batch rows cols]`` of a loaded block's Sites."""

    @abstractmethod
    def keep(self, weights: Mapping[Site, Tensor], then: Callable[[], None]) -> None:
        """Write these weights to the output, where there is one, and call ``then`` once they are on the disk.

        Both happen in the background, in order; :meth:`settle` waits for them.
        """

    @abstractmethod
    def settle(self) -> None:
        """Return when all that was to be kept is kept; raises what went wrong on the way."""


class CheckpointSource(Source):
    """A checkpoint read block by block; ``writer`` receives pruned weights (None for evaluation)."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device,
                 writer: MirrorWriter | None = None, trust_remote_code: bool = False) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.device = device
        self.writer = writer
        self.config = load_config(checkpoint.folder, trust_remote_code)
        self.model = build_skeleton(self.config, dtype, trust_remote_code)
        self.names = NameMap(self.model, checkpoint.names)
        self.names.settle_ties(checkpoint.read)
        missing = self.names.missing()
        if missing:
            raise CheckpointError(
                f"{checkpoint.folder}: {len(missing)} of the model's parameters are not in the checkpoint, "
                f"{missing[0]} among them. Transformers would fill them with random numbers; download it again."
            )
        self._overlay: Callable[[str], Tensor] | None = None
        self.background = Background()

    def stored_dtype(self, parameter: str) -> torch.dtype:
        return self.checkpoint.entry(self.names.sources[parameter][0]).dtype

    def read_from(self, read: Callable[[str], Tensor] | None) -> None:
        """Take tensors from elsewhere (the unfinished output, while replaying finished blocks)."""
        self._overlay = read

    def load(self, index: int) -> nn.Module:
        self._load(self._absent(self._inside(index)))
        return self.blocks[index]

    def expect(self, index: int) -> None:
        if index < len(self.blocks):
            names = [disk for parameter in self._absent(self._inside(index)) for disk in self.names.sources[parameter]]
            self.background.expect(names, self.checkpoint.read)
        else:
            self.background.rest()

    def _release(self, index: int) -> None:
        release(self.blocks[index])

    def matrix(self, site: Site) -> Tensor:
        absent = self.model.get_parameter(site.parameter).is_meta
        if absent:
            self._load([site.parameter])
        weight = site.layout.to_matrix(self.model.get_parameter(site.parameter).data).float()
        if absent:
            owner, _, key = site.parameter.rpartition(".")
            release_parameter(self.model.get_submodule(owner), key)
        return weight

    def load_outside(self, head: bool) -> None:
        trunk = {id(parameter) for parameter in self.model.base_model.parameters()}
        names = self._outside()
        self._load(self._absent([name for name in names if head or id(self.model.get_parameter_or_buffer(name)) in trunk]))
        self.names.tie()
        for name, buffer in self.model.named_buffers():
            owner, _, key = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[key] = buffer.to(self.device)

    def _release_outside(self) -> None:
        for name in self._outside():
            owner, _, key = name.rpartition(".")
            release_parameter(self.model.get_submodule(owner), key)
        self.names.tie()

    def put(self, weights: Mapping[Site, Tensor]) -> None:
        for site, weight in weights.items():
            parameter = self.model.get_parameter(site.parameter)
            if not parameter.is_meta:
                parameter.data = site.layout.from_matrix(weight).to(parameter)

    def keep(self, weights: Mapping[Site, Tensor], then: Callable[[], None]) -> None:
        if self.writer is None:
            return
        stored = {site.parameter: site.layout.from_matrix(weight) for site, weight in weights.items()}
        self.background.later(partial(_write, self.writer, self.names.to_disk(stored), then))

    def settle(self) -> None:
        self.background.wait()

    def disk_names(self, sites: list[Site]) -> set[str]:
        """Names on disk of the tensors that these Sites are made of."""
        return {disk for site in sites for disk in self.names.sources[site.parameter]}

    def parameters_on_disk(self) -> set[str]:
        """Names on disk of the tensors that the model's parameters are made of: no buffers, tied ones once."""
        tied = set(self.model.all_tied_weights_keys)
        names = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - tied
        return {disk for name in names for disk in self.names.sources[name]}

    def _inside(self, index: int) -> list[str]:
        prefix = self.prefix(index) + "."
        return [name for name in self.names.sources if name.startswith(prefix)]

    def _outside(self) -> list[str]:
        return [name for name in self.names.sources if not self.is_inside(name)]

    def _absent(self, parameters: list[str]) -> list[str]:
        """Those that are to be loaded: all, unless some are held."""
        if not self._holds:
            return parameters
        return [name for name in parameters if self.model.get_parameter_or_buffer(name).is_meta]

    def _load(self, parameters: list[str]) -> None:
        read = self._overlay or partial(self.background.read, read=self.checkpoint.read)
        self.names.load(parameters, read, self.device)
        for name in parameters:
            tensor = self.model.get_parameter_or_buffer(name)
            if tensor.is_floating_point() and not all_finite(tensor):
                bad = int((~torch.isfinite(tensor)).sum())
                raise NumericalError(
                    f"tensor '{name}' of {self.checkpoint.folder} holds {bad} NaN or Inf values (read as {tensor.dtype}). "
                    "The checkpoint is damaged, or its values do not fit this --dtype."
                )


def _write(writer: MirrorWriter, tensors: dict[str, Tensor], then: Callable[[], None]) -> None:
    writer.put(tensors)
    writer.sync()
    then()


class MemorySource(Source):
    """A model in memory, on one device, pruned in place; what was moved for that is back on it when it is released."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._home = next(self.blocks[0].parameters()).device

    def stored_dtype(self, parameter: str) -> torch.dtype:
        return self.model.get_parameter(parameter).dtype  # type: ignore[no-any-return]

    def load(self, index: int) -> nn.Module:
        return self.blocks[index].to(self.device)

    def _release(self, index: int) -> None:
        self.blocks[index].to(self._home)

    def expect(self, index: int) -> None:
        """Every block is in memory."""

    def keep(self, weights: Mapping[Site, Tensor], then: Callable[[], None]) -> None:
        then()

    def settle(self) -> None:
        """Nothing is written."""

    def matrix(self, site: Site) -> Tensor:
        return site.layout.to_matrix(self.model.get_parameter(site.parameter).data).float().to(self.device)

    def load_outside(self, head: bool) -> None:
        self._move_outside(self.device)

    def _release_outside(self) -> None:
        self._move_outside(self._home)

    def _move_outside(self, device: torch.device) -> None:
        for name, module in self.model.named_modules():
            if not self.is_inside(name):
                for tensors in (module._parameters, module._buffers):
                    for tensor in tensors.values():
                        if tensor is not None:
                            tensor.data = tensor.data.to(device)

    def put(self, weights: Mapping[Site, Tensor]) -> None:
        for site, weight in weights.items():
            self.model.get_parameter(site.parameter).data.copy_(site.layout.from_matrix(weight))
