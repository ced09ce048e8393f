"""Counted costs against models that are really built, and operations against those that a profiler counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunus.models.numbers import least_experts, shapes
from prunus.stream.operations import token_operations
from prunus.stream.sources import CheckpointSource
from prunus.structure.cost import Costs, Shape
from prunus.structure.outline import anatomy_of
from prunus.structure.sizes import config_of
from prunus.verbs.prepare import open_model, vocabulary


def costs_of(folder, seqlen: int = 32) -> tuple[CheckpointSource, Costs]:
    import prunus

    source = open_model(folder, prunus.Recipe())
    return source, Costs(source, anatomy_of(source, vocabulary(source)), seqlen)


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "qwen3", "gemma2", "phi3", "falcon", "mixtral", "deepseek_v3", "gpt_oss"]
)
def test_parameters_are_those_of_the_model_that_is_built(family, checkpoint) -> None:
    source, costs = costs_of(checkpoint(family))
    whole = sum(parameter.numel() for parameter in source.model.parameters())
    assert costs.parameters(Shape({}, costs.count)) == whole
    for name, axis in costs.anatomy.axes.items():
        sizes = {name: axis.size // 2}
        built = shapes(source.config, config_of(costs.anatomy, sizes), torch.float32)
        assert built is not None
        buffers = {key for key, _ in source.model.named_buffers()}
        count = sum(torch.Size(shape).numel() for key, shape in built.items() if key not in buffers)
        assert costs.parameters(Shape(sizes, costs.count)) == count, name


PAIRS = [("llama", ("heads", "kv_groups")), ("llama", ("neurons", "kv_groups")), ("qwen3", ("heads", "kv_groups", "width")),
         ("phi3", ("heads", "kv_groups")), ("mixtral", ("experts", "heads", "kv_groups")),
         ("gpt2", ("width", "neurons"))]  # fmt: skip


@pytest.mark.parametrize(("family", "axes"), PAIRS)
def test_axes_cut_together_are_counted_together(family, axes, checkpoint) -> None:
    """Heads go within the groups that stay."""
    source, costs = costs_of(checkpoint(family))
    sizes = {name: costs.anatomy.axes[name].size // 2 for name in axes if name in costs.anatomy.axes}
    assert len(sizes) >= 2
    built = shapes(source.config, config_of(costs.anatomy, sizes), torch.float32)
    assert built is not None
    buffers = {key for key, _ in source.model.named_buffers()}
    assert costs.parameters(Shape(sizes, costs.count)) == sum(
        torch.Size(shape).numel() for key, shape in built.items() if key not in buffers
    )


def test_depth_and_what_is_not_counted(checkpoint) -> None:
    source, costs = costs_of(checkpoint("llama"))
    block = sum(parameter.numel() for parameter in source.blocks[0].parameters())
    whole, fewer = Shape({}, 3), Shape({}, 2)
    assert costs.parameters(whole) - costs.parameters(fewer) == pytest.approx(block)
    assert costs.without_embeddings(whole) == costs.parameters(whole) - 2 * 512 * 32
    assert costs.memory(whole) == 4 * costs.parameters(whole)


COUNTED = [("llama", {}), ("llama", {"neurons": 32}), ("llama", {"heads": 2}), ("llama", {"heads": 2, "kv_groups": 1}),
           ("gpt2", {}), ("mixtral", {}),
           ("mixtral", {"experts": 2})]  # fmt: skip


@pytest.mark.parametrize(("family", "sizes"), COUNTED)
def test_operations_are_those_that_a_profiler_counts(family, sizes, checkpoint, tmp_path) -> None:
    """Of full attention the profiler counts all pairs of tokens, a causal pass needs half."""
    source, costs = costs_of(checkpoint(family), 32)
    from transformers import AutoModelForCausalLM

    from prunus.models.numbers import with_numbers

    config = with_numbers(source.config, config_of(costs.anatomy, sizes))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.set_experts_implementation("eager") if family == "mixtral" else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(32).unsqueeze(0), use_cache=False)
    attended = 2 * 32 * 32 * config.num_attention_heads * 8 * 3
    routers = 2 * 32 * 4 * 3 if family == "mixtral" else 0
    routers = routers // 2 if "experts" in sizes else routers
    counted = counter.get_total_flops() / 32
    assert costs.operations(Shape(sizes, 3)) == pytest.approx(counted - attended / 32 - routers, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi3", "mixtral", "deepseek_v3"])
def test_operations_of_stored_tensors_are_those_of_the_shapes(family, checkpoint) -> None:
    """And without zeros those of each matrix by the share of its weights that are left."""
    source, costs = costs_of(checkpoint(family), 32)
    disk = source.parameters_on_disk()
    sizes = {name: source.checkpoint.read(name).numel() for name in disk}
    whole = token_operations(source, sizes, 32)
    assert whole.dense == whole.nonzero == pytest.approx(costs.operations(Shape({}, costs.count)))
    none = token_operations(source, dict.fromkeys(disk, 0), 32)
    half = token_operations(source, {name: size / 2 for name, size in sizes.items()}, 32)  # type: ignore[misc]
    assert none.nonzero == 2 * 32 * costs._attended * costs.count
    assert half.nonzero == pytest.approx((whole.dense + none.nonzero) / 2)
    site = source.found[1].sites[0]
    (name, *_) = source.names.sources[site.parameter]
    emptied = token_operations(source, {**sizes, name: 0}, 32)
    entries = len(source.model.get_parameter(site.parameter)) if site.layout.stacked else 1
    used = least_experts(source.config) / entries if site.layout.stacked else 1
    assert whole.nonzero - emptied.nonzero == pytest.approx(2 * sizes[name] * used)
