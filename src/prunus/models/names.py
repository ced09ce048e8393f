"""Names and layouts on disk against those in memory.

Transformers 5 renames and restacks tensors while loading (Mixtral is one tensor an expert on disk, one stacked tensor
in memory; base models lack a prefix) and undoes it while saving. prunus uses that very machinery on one block's
tensors at a time, so that what it writes carries the source's names. All of its internals are kept in this file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, UnsupportedModelError

NO_PLACE = "the model has no place for it: not written"


class NameMap:
    """Which tensors on disk make up each parameter of ``model``, both ways.

    ``sources[parameter]`` lists the disk names it is made of; ``converted`` holds the parameters whose tensors are
    restacked, not merely renamed; ``strangers`` are disk tensors that the model has no place for.
    """

    def __init__(self, model: Any, disk_names: Iterable[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        self.model = model
        self.transforms = get_model_conversion_mapping(model)
        renamings = [entry for entry in self.transforms if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self.transforms if isinstance(entry, WeightConverter)]
        targets = {pattern: c.target_patterns for c in converters for pattern in c.source_patterns}
        state = model.state_dict()
        self.sources: dict[str, list[str]] = defaultdict(list)
        self.converted: set[str] = set()
        self.strangers: list[str] = []
        for name in disk_names:
            renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
            if renamed not in state and name in state:
                renamed, pattern = name, None
            if renamed not in state:
                self.strangers.append(name)
                continue
            self.sources[renamed].append(name)
            if pattern is not None:
                self.converted.add(renamed)
                if len(targets[pattern]) != 1:
                    raise UnsupportedModelError(
                        f"tensor '{name}' is split into several parameters ({targets[pattern]}) while loading; "
                        "prunus cannot write such a model back yet."
                    )

    def settle_ties(self, read: Callable[[str], Tensor]) -> None:
        """Tie what is tied on disk: a pair stored with different values is not, whatever the config says, and of a
        pair of which only one is stored that one is the source. This is what ``from_pretrained`` does.
        """
        ties = self.model.all_tied_weights_keys
        for target, source in list(ties.items()):
            stored = [self.sources[name][0] for name in (target, source) if name in self.sources]
            if len(stored) == 2 and not torch.equal(read(stored[0]), read(stored[1])):
                untie(self.model, target)
            elif target in self.sources and source not in self.sources:
                del ties[target]
                ties[source] = target
        self.tie()

    def tie(self) -> None:
        """Let tied parameters share one tensor again, after their source was loaded or released."""
        self.model.tie_weights(recompute_mapping=False)

    def missing(self) -> list[str]:
        """Parameters that no tensor on disk provides; tied ones aside."""
        tied = {target for target, source in self.model.all_tied_weights_keys.items() if source in self.sources}
        wanted = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return sorted(name for name in wanted if name not in self.sources and name not in tied)

    def load(self, parameters: Iterable[str], read: Callable[[str], Tensor], device: torch.device) -> None:
        """Read these parameters and place them in the model, in its dtype.

        What transformers restacks goes through its own machinery; all else is put in place directly.

        Raises:
            CheckpointError: if a tensor's shape is not what the config says.
        """
        wanted = list(parameters)
        restacked = [name for name in wanted if name in self.converted]
        for name in wanted:
            if name not in self.converted:
                self._place(name, read(self.sources[name][0]), device)
        if restacked:
            self._load_restacked({disk: read(disk) for name in restacked for disk in self.sources[name]}, device)
        still = [name for name in wanted if self.model.get_parameter_or_buffer(name).is_meta]
        if still:
            raise CheckpointError(f"{len(still)} tensors were not loaded, {still[0]} among them.")
        for name in wanted:
            self.model.get_parameter_or_buffer(name).requires_grad_(False)

    def _place(self, name: str, tensor: Tensor, device: torch.device) -> None:
        """Put a tensor where the model has its parameter or buffer, in the dtype that it has there."""
        path, _, key = name.rpartition(".")
        owner = self.model.get_submodule(path)
        held = owner._parameters if key in owner._parameters else owner._buffers
        if held[key].shape != tensor.shape:
            raise _misfit(self.sources[name][0], tensor.shape, held[key].shape)
        placed = tensor.to(device, held[key].dtype)
        held[key] = nn.Parameter(placed, requires_grad=False) if held is owner._parameters else placed

    def _load_restacked(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        from .skeleton import quiet_transformers

        config = LoadStateDictConfig(
            weight_mapping=self.transforms,  # type: ignore[arg-type]
            device_map={"": str(device)},
            dtype=self.model.dtype,
        )
        with quiet_transformers():
            info, _ = convert_and_load_state_dict_in_model(self.model, tensors, config)
        if info.mismatched_keys:
            name, found, expected = sorted(info.mismatched_keys)[0]
            raise _misfit(name, found, expected)
        if info.conversion_errors:
            name, reason = next(iter(info.conversion_errors.items()))
            raise CheckpointError(f"tensor '{name}' cannot be loaded: {reason}")

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters under their disk names, restacked as the source has them.

        Raises:
            UnsupportedModelError: if undoing the conversion does not give the source's names back.
        """
        from transformers.core_model_loading import revert_weight_conversion

        plain = {self.sources[name][0]: value for name, value in tensors.items() if name not in self.converted}
        stacked = {name: value for name, value in tensors.items() if name in self.converted}
        if not stacked:
            return plain
        wanted = {disk for name in stacked for disk in self.sources[name]}
        reverted = {}
        for name, value in revert_weight_conversion(self.model, stacked).items():
            prefix = f"{self.model.base_model_prefix}."
            match = next((c for c in (name, prefix + name, name.removeprefix(prefix)) if c in wanted), None)
            if match is None:
                raise UnsupportedModelError(f"'{name}' is no tensor of the source; prunus cannot write this model back.")
            reverted[match] = value
        if wanted - set(reverted):
            raise UnsupportedModelError(f"undoing the conversion lost {sorted(wanted - set(reverted))[:3]}.")
        return {**plain, **reverted}


def untie(model: Any, target: str) -> None:
    """Give a tied parameter a tensor of its own."""
    del model.all_tied_weights_keys[target]
    owner, _, key = target.rpartition(".")
    module = model.get_submodule(owner)
    module._parameters[key] = nn.Parameter(module._parameters[key].clone(), requires_grad=False)


def stored_names(model: Any) -> dict[str, tuple[list[str], tuple[int, ...]]]:
    """The tensors that ``save_pretrained`` would write of a model: by name what each is made of, and its shape.

    Tied parameters are written once, under the name of what the others are tied to.
    """
    from transformers.core_model_loading import revert_weight_conversion

    tied = set(model.all_tied_weights_keys)
    found: dict[str, tuple[list[str], tuple[int, ...]]] = {}
    for parameter, value in model.state_dict().items():
        if parameter not in tied:
            for name, stored in revert_weight_conversion(model, {parameter: value.to("meta")}).items():
                found.setdefault(name, ([], tuple(stored.shape)))[0].append(parameter)
    return found


def release(module: nn.Module) -> None:
    """Put a module's parameters back on ``meta``; buffers stay."""
    for owner in module.modules():
        for name in owner._parameters:
            release_parameter(owner, name)


def release_parameter(owner: nn.Module, name: str) -> None:
    """Put one parameter back on ``meta``."""
    parameter = owner._parameters.get(name)
    if parameter is not None and not parameter.is_meta:
        owner._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def _misfit(name: str, found: Sequence[int], expected: Sequence[int]) -> CheckpointError:
    return CheckpointError(
        f"tensor '{name}' is {list(found)} on disk, the config asks for {list(expected)}: config.json and the weights "
        "belong to different models. Download both again."
    )
