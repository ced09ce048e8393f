"""Cut equals masked for language models of many families, from disk to disk; the masks are laid here, by other means."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import RecipeError, UnsupportedModelError
from prunus.observe.windows import random_windows
from tiny import VOCABULARY, model_of

WIDTH = 40
"""A hidden width that nothing else in the tiny models has."""
SIZED = {"hidden_size": WIDTH, "head_dim": 8, "rms_norm_eps": 1e-12}
READERS = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"), "opt": ("self_attn.out_proj", "fc2"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"), "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "gptj": ("attn.out_proj", "mlp.fc_out"), "codegen": ("attn.out_proj", "mlp.fc_out"),
    "rwkv": ("attention.output", "feed_forward.value"), "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "gpt_bigcode": ("attn.c_proj", "mlp.c_proj"), "stablelm": ("self_attn.o_proj", "mlp.down_proj"),
}  # fmt: skip
"""The layers that read heads and neurons, where they are not ``self_attn.o_proj`` and ``mlp.down_proj``."""
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "cohere", "glm4", "mixtral",
           "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe", "llama4")  # fmt: skip
NEURONS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma4", "phi3", "opt", "gpt2", "gpt_neox", "falcon",
           "gptj", "codegen", "gpt_bigcode", "olmo2", "stablelm", "cohere", "glm4", "rwkv")  # fmt: skip
WIDE = ("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "llama4",
        "gemma2", "gemma3", "glm4")  # fmt: skip
DEEP = ("llama", "qwen2", "gemma3", "phi3", "opt", "gpt2", "gpt_neox", "falcon", "bloom", "mixtral", "qwen3_next",
        "deepseek_v3", "llama4", "gpt_oss")  # fmt: skip


@pytest.fixture
def shrunk(tokenizer, text_file, tmp_path):
    """``shrunk(dense, **what)``: the dense model saved, cut at random without repair, and loaded plainly."""

    def run(dense: nn.Module, **what) -> tuple[nn.Module, prunus.ShrinkResult]:
        from transformers import AutoModelForCausalLM

        dense.save_pretrained(tmp_path / "dense")
        tokenizer.save_pretrained(tmp_path / "dense")
        text = {"calibration": str(text_file), "samples": 2, "seqlen": 32, "eval_windows": 0}
        chance = {"importance": "random", "width_importance": "random", "solver": "keep"}
        result = prunus.shrink(tmp_path / "dense", tmp_path / "out", **text, **{**chance, **what})
        cut, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True, dtype=torch.float32)
        assert not any(info.values()), info
        assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")
        assert sum(parameter.numel() for parameter in cut.parameters()) == result.parameters[1] < result.parameters[0]
        return cut.eval(), result

    return run


@torch.no_grad()
def assert_equal(cut: nn.Module, masked: nn.Module, dense: nn.Module) -> None:
    """Logits within 1e-5 of their spread, and not those of the dense model."""
    ids = torch.randint(2, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))
    found, wanted, before = (model(input_ids=ids, use_cache=False).logits for model in (cut, masked, dense))
    torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())), rtol=0)
    assert (found - before).norm() > 0.01 * before.norm()


def reader_of(family: str, block: nn.Module, which: int) -> str:
    name = READERS.get(family, ("self_attn.o_proj", "mlp.down_proj"))[which]
    return name if name in dict(block.named_modules()) else name.replace("mlp.", "feed_forward.shared_expert.")


def zero_columns(layer: nn.Module, columns: list[int]) -> None:
    if type(layer).__name__ == "Conv1D":
        layer.weight.data[columns] = 0
    else:
        layer.weight.data[:, columns] = 0


def blocks_of(model: nn.Module) -> list[nn.Module]:
    from prunus.models.skeleton import find_stacks

    return list(find_stacks(model)[0].blocks)


def gone(result: prunus.ShrinkResult, needle: str, count: int) -> list[list[int]]:
    """The units that went of every coupling whose first tensor's name has ``needle`` in it, block by block."""
    found = {name: units for name, units in result.record["units"].items() if needle in name}
    ordered = sorted(found, key=lambda name: next((int(word) for word in name.split(".") if word.isdigit()), -1))
    return [[unit for unit in range(count) if unit not in found[name]] for name in ordered]


@pytest.mark.parametrize("family", NEURONS)
def test_neurons(family, shrunk) -> None:
    dense, masked = model_of(family), model_of(family)
    cut, result = shrunk(dense, neurons="0.5")
    before, after = result.sizes["neurons"]
    assert after * 2 == before
    for block, dropped in zip(blocks_of(masked), gone(result, "", before), strict=True):
        zero_columns(block.get_submodule(reader_of(family, block, 1)), dropped)
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize("family", GROUPED)
@pytest.mark.parametrize("axis", ["heads", "kv_groups"])
def test_heads(axis, family, shrunk) -> None:
    changed = {"rms_norm_eps": 1e-12} if family == "olmo2" else {}
    dense, masked = model_of(family, **changed), model_of(family, **changed)
    cut, result = shrunk(dense, **{axis: "0.5"})
    before, _ = result.sizes[axis]
    each = 32 // before  # four heads of eight columns, two groups of sixteen
    for block, dropped in zip(blocks_of(masked), gone(result, "", before), strict=True):
        columns = [each * unit + k for unit in dropped for k in range(each)]
        zero_columns(block.get_submodule(reader_of(family, block, 0)), columns)
        if family == "olmo2":  # whose norms average over all heads
            block.self_attn.q_proj.weight.data[columns] = 0
            if axis == "kv_groups":
                block.self_attn.k_proj.weight.data[[8 * unit + k for unit in dropped for k in range(8)]] = 0
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize(("heads", "groups", "left"), [(4, 4, 2), (6, 3, 3), (6, 2, 4), (8, 2, 4), (9, 3, 6), (14, 2, 6)])
def test_every_ratio_of_heads(heads, groups, left, shrunk) -> None:
    width = math.lcm(heads, left if heads != groups else 2, 12)
    changed = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": 8, "hidden_size": width}
    dense, masked = model_of("llama", **changed), model_of("llama", **changed)
    cut, result = shrunk(dense, heads=left)
    assert result.sizes["heads"] == (heads, left)
    assert cut.config.num_attention_heads == left
    assert cut.config.num_key_value_heads == (left if heads == groups else groups)
    for block, dropped in zip(blocks_of(masked), gone(result, "", heads), strict=True):
        by_group = [sum(unit // (heads // groups) == group for unit in dropped) for group in range(groups)]
        assert heads == groups or by_group == [(heads - left) // groups] * groups
        zero_columns(block.self_attn.o_proj, [8 * unit + k for unit in dropped for k in range(8)])
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize("family", WIDE)
def test_width(family, shrunk) -> None:
    """Whatever has as many places as the stream is wide has zeros where channels go; norms then average over them too."""
    dense, masked = model_of(family, **SIZED), model_of(family, **SIZED)
    cut, result = shrunk(dense, width=32)
    (dropped,) = gone(result, "embed", WIDTH)
    assert len(dropped) == 8
    with torch.no_grad():
        for parameter in masked.parameters():
            for dim, size in enumerate(parameter.shape):
                if size == WIDTH:
                    parameter.index_fill_(dim, torch.tensor(dropped), 0)
    assert_equal(cut, masked, dense)


def test_width_and_heads_together_where_a_heads_size_follows_the_width(shrunk) -> None:
    """GPT-2, whose layer norms take the mean away: what goes is at the mean of what stays."""
    dense, masked = model_of("gpt2", layer_norm_epsilon=1e-12), model_of("gpt2", layer_norm_epsilon=1e-12)
    cut, result = shrunk(dense, width=24)
    assert (cut.config.n_embd, cut.config.n_head, cut.config.n_inner) == (24, 3, 128)
    (dropped,) = gone(result, "wte", 32)
    kept = [unit for unit in range(32) if unit not in dropped]
    with torch.no_grad():
        for name, parameter in masked.named_parameters():
            if "wte" in name or "wpe" in name or name.endswith("c_proj.weight"):
                parameter[:, dropped] = 0
            if name.endswith("c_proj.bias"):
                parameter[dropped] = 0
    for block, heads in zip(blocks_of(masked), gone(result, "c_attn", 4), strict=True):
        zero_columns(block.attn.c_proj, [8 * head + k for head in heads for k in range(8)])

    def normed(module: nn.LayerNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
        gain = module.weight[kept] * (32 / 24) ** 0.5
        found = nn.functional.layer_norm(args[0][..., kept], (24,), gain, module.bias[kept], 1e-12)
        return torch.zeros_like(output).index_copy(-1, torch.tensor(kept), found)

    for module in masked.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(normed)
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize("family", DEEP)
def test_depth(family, shrunk) -> None:
    dense, masked = model_of(family), model_of(family)
    cut, result = shrunk(dense, layers=-1, depth="influence")
    (missing,) = set(range(result.record["plan"]["count"])) - set(result.record["plan"]["blocks"])
    plain = blocks_of(masked)[missing]
    given: list[object] = []
    plain.register_forward_hook(lambda _module, _args, output: given.append(output))
    masked(input_ids=torch.tensor([[5, 6]]), use_cache=False)
    unpacked = isinstance(given[0], tuple)

    def passed(hidden_states: Tensor, *_args: object, **_kwargs: object) -> object:
        return (hidden_states, None) if unpacked else hidden_states

    plain.forward = passed
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "granitemoe", "deepseek_v3", "qwen2_moe"])
def test_neurons_of_experts(family, shrunk) -> None:
    """Every expert has neurons of its own to lose."""
    dense, masked = model_of(family), model_of(family)
    axis = "moe_intermediate_size" if family in ("deepseek_v3", "qwen2_moe") else "neurons"
    cut, result = shrunk(dense, **({"cut": f"{axis}=0.5"} if axis != "neurons" else {"neurons": "0.5"}))
    before, _ = result.sizes[axis]
    names = dict(masked.named_parameters())
    different = set()
    for key, kept in result.record["units"].items():
        name, _, entry = key.removesuffix("]").partition(" dim")[0].partition("[")
        dropped = [unit for unit in range(before) if unit not in kept]
        different.add(tuple(dropped))
        path = name.rpartition(".")[0]
        if entry:
            down = names[f"{path}.down_proj"]
            expert = down.data[int(entry.removesuffix("]"))]
            expert[dropped if family == "gpt_oss" else slice(None), slice(None) if family == "gpt_oss" else dropped] = 0
        else:
            names[f"{path.rpartition('.')[0]}.down_proj.weight"].data[:, dropped] = 0
    assert_equal(cut, masked, dense)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe", "qwen3_next", "llama4"])
def test_experts(family, shrunk) -> None:
    """The dense model, its routers made to pass over the experts that went."""
    dense, masked = model_of(family), model_of(family)
    cut, result = shrunk(dense, experts=0.5)
    for block, dropped in zip(blocks_of(masked), gone(result, "", 4), strict=True):
        assert len(dropped) == 2
        pass_over(block, dropped)
    assert_equal(cut, masked, dense)
    told = result.record["experts"]
    assert len(told) == len(blocks_of(masked))
    assert all(sum(seen["tokens"]) >= 64 for seen in told.values())


def pass_over(block: nn.Module, dropped: list[int]) -> None:
    """Routing anew from the scores of what stays: softmax (a sigmoid for Llama 4), then the highest."""
    name, router = next((name, one) for name, one in block.named_modules() if name.endswith((".gate", ".router")))
    plain = router.forward

    def forward(hidden: Tensor) -> object:
        linear = nn.functional.linear

        def masked(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            scores = linear(inputs, weight, bias)
            scores[..., dropped] = -torch.inf
            return scores

        nn.functional.linear = torch.nn.functional.linear = masked
        try:
            return plain(hidden)
        finally:
            nn.functional.linear = torch.nn.functional.linear = linear

    assert name
    router.forward = forward


def test_experts_that_add_most_stay(tokenizer, text_file, checkpoint, tmp_path) -> None:
    """REAP's score, from a plain loop over the experts of the first block."""
    dense = model_of("mixtral")
    text = {"calibration": str(text_file), "samples": 4, "seqlen": 48, "eval_windows": 0}
    result = prunus.shrink(checkpoint("mixtral"), tmp_path / "out", experts=2, **text)
    block, seen = dense.model.layers[0], []
    block.mlp.experts.register_forward_pre_hook(lambda _module, args: seen.append(args))
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    with torch.no_grad():
        dense(input_ids=random_windows(ids, 4, 48, 0, "text"), use_cache=False)
        hidden, index, gates = (torch.cat([args[k] for args in seen]) for k in range(3))
        scores = []
        for expert in range(4):
            token, choice = torch.where(index == expert)
            gate, up = (hidden[token] @ block.mlp.experts.gate_up_proj[expert].T).chunk(2, -1)
            output = (torch.nn.functional.silu(gate) * up) @ block.mlp.experts.down_proj[expert].T
            scores.append(float((gates[token, choice] * output.norm(dim=-1)).mean()))
    best = sorted(sorted(range(4), key=scores.__getitem__)[-2:])
    assert next(iter(result.record["units"].values())) == best
    assert result.record["experts"]["model.layers.0"]["tokens"] == [int((index == expert).sum()) for expert in range(4)]


@pytest.mark.parametrize("heads", [1, 2])
def test_heads_are_counted_in_the_groups_that_stay(heads, shrunk) -> None:
    cut, result = shrunk(model_of("llama"), heads=heads, kv_groups=1)
    assert (cut.config.num_attention_heads, cut.config.num_key_value_heads) == (heads, 1)
    assert result.record["proof"]["masked"] < 1e-5


REFUSED = [
    ("mixtral", {"experts": 1}, "of 4 at least 2 have to stay; the nearest that can is 2"),
    ("deepseek_v3", {"experts": 4}, "does not run .*selected index k out of range"),
    ("llama", {"heads": 3}, "as many have to stay in each of 2 groups; the nearest that can is 2"),
    ("llama", {"neurons": 100}, "there are only 64"),
    ("llama", {"kv_groups": -2}, "at least 1 have to stay; the nearest that can is 1"),
    (
        "llama",
        {"heads": 3, "kv_groups": 1},
        "3 cannot stay in 1 of 2 key/value groups.*the nearest that can is 2",
    ),
    ("llama", {"experts": 0.5}, r"experts: this model cannot be cut along it; it can along kv_groups \(2\), heads \(4\)"),
    ("llama", {"layers": -3}, "there are 3 blocks, of which at least 1 has to stay"),
    ("llama", {"neurons": 1.0}, "nothing would be cut"),
    ("falcon", {"width": 0.9}, "it shrinks in steps of 16 of 32; the nearest that can stay is 16"),
    ("codegen", {"width": 0.75}, r"does not run \(CodeGenBlock: shape"),
    ("opt", {"width": 16}, "project_out.weight would be .* the config says nothing"),
]


@pytest.mark.parametrize(("family", "what", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(family, what, message, shrunk, tmp_path) -> None:
    with pytest.raises(RecipeError, match=message):
        shrunk(model_of(family), **what)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense"]


def test_blocks_that_hand_on_more_than_hidden_states_are_not_left_out(shrunk, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="blocks can be left out of one stack only"):
        shrunk(model_of("rwkv"), layers=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense"]
