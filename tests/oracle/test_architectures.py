"""Every family: pruned on disk, loaded again with nothing missing, errors as measured, fused projections where they are."""

from __future__ import annotations

import copy

import pytest
import torch
from measured import inputs_of, measured
from safetensors.torch import load_file
from torch import Tensor

import prunus
from prunus.core.errors import UnsupportedModelError
from prunus.core.site import Site
from prunus.models.skeleton import find_stacks
from prunus.observe.windows import random_windows
from prunus.stream.sources import MemorySource
from tiny import FAMILIES, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_saved_loaded_and_the_error_as_predicted(family, tokenizer, text_file, quick, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dense = model_of(family)
    dense.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    settings = {**quick, "samples": 6, "seqlen": 48, "method": "sparsegpt", "sparsity": "2:4", "min_expert_tokens": 1}
    result = prunus.prune(tmp_path / "dense", tmp_path / "out", **settings)
    pruned, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")
    assert result.sparsity == pytest.approx(0.5, abs=1e-6)
    own = AutoTokenizer.from_pretrained(tmp_path / "out")  # some families tokenise with a class of their own
    windows = random_windows(torch.tensor(own(text_file.read_text())["input_ids"]), 6, 48, 0, "text")
    found = MemorySource(dense, torch.device("cpu")).found
    errors = {record["name"]: record["rel_error"] for record in result.sites}
    for index in (0, len(found) - 1):
        mixed = copy.deepcopy(pruned).eval()  # this block dense, all before it pruned: what the solver saw
        block = find_stacks(mixed)[0].blocks[index]
        block.load_state_dict(find_stacks(dense)[0].blocks[index].state_dict())
        inputs = inputs_of(mixed, block, windows)
        assert found[index].sites
        for site in found[index].sites:
            assert errors[site.name] == pytest.approx(measured(site, dense, pruned, inputs), rel=5e-3), site.name


@pytest.fixture
def odd(tokenizer, tmp_path):
    """Writes the checkpoint of an odd family."""

    def make(family: str):
        model = model_of(family)
        model.config.pad_token_id = model.generation_config.pad_token_id = None
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


REFUSED = {
    "mamba": r"MambaBlock, as in backbone.layers.0.mixer.A_log: MambaMixer holds a matrix that is no linear layer",
    "jamba": r"JambaMambaDecoderLayer, as in model.layers.0.mamba.A_log",
    "recurrent_gemma": r"RecurrentGemmaDecoderLayer, as in .*rg_lru",
    "bart": r"BartDecoderLayer, as in model.decoder.layers.0.encoder_attn.k_proj: its layer never runs",
    "rwkv_rescaled": r"RwkvBlock: the model changes hidden states between its blocks",
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_pruned_is_refused_in_words(family, odd, quick, tmp_path) -> None:
    source = odd(family)
    with pytest.raises(UnsupportedModelError, match=REFUSED[family]):
        prunus.prune(source, tmp_path / "out", method="sparsegpt", **quick)
    assert [path.name for path in tmp_path.iterdir()] == [family]


@pytest.mark.parametrize("family", ["mamba", "jamba", "recurrent_gemma", "bart"])
def test_or_left_dense_on_request(family, odd, quick, tmp_path) -> None:
    source = odd(family)
    result = prunus.prune(source, tmp_path / "out", method="sparsegpt", skip_unsupported=True, **quick)
    left = {name for name, reason in result.record["plan"]["untouched"].items() if "--skip-unsupported" in reason}
    assert left
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before if name in left or f"{name[:-7]}" in left)
    assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")
    assert not any("router" in site["name"] for site in result.sites)


def test_a_model_that_cannot_be_followed_is_still_pruned_by_weights_alone(odd, quick, tmp_path) -> None:
    source = odd("rwkv_rescaled")
    settings = {"method": "magnitude", "samples": 4, "seqlen": 32, "eval_text": quick["eval_text"]}
    with pytest.raises(UnsupportedModelError, match="with --eval-windows 0"):
        prunus.prune(source, tmp_path / "out", **settings)
    result = prunus.prune(source, tmp_path / "out", eval_windows=0, **settings)
    assert "logits not compared" in result.record["proof"]["reload"]
    assert result.sparsity == pytest.approx(0.5, abs=0.01)


FUSED = {
    "bloom": "dense", "codegen": "out_proj", "falcon": "dense", "falcon_alibi": "dense", "falcon_multi_query": "dense",
    "gpt2": "c_proj", "gpt_bigcode": "c_proj", "gpt_neox": "dense", "mpt": "out_proj", "persimmon": "dense",
    "phi3": "o_proj",
}  # fmt: skip


@pytest.mark.parametrize("family", FUSED)
def test_fused_projections_lie_where_they_are_declared(family) -> None:
    """Without values attention gives zeros; without queries or without keys it weighs all tokens alike."""
    ids = torch.arange(40).view(2, 20)
    site = next(site for site in MemorySource(model_of(family), torch.device("cpu")).found[0].sites if site.layout.parts)
    given = {part.name: attention_output(family, site, part.rows(site.rows), ids) for part in site.layout.parts}
    whole = attention_output(family, site, torch.tensor([], dtype=torch.int64), ids)
    assert not given["v"].any()
    torch.testing.assert_close(given["q"], given["k"], rtol=1e-4, atol=1e-5)
    assert float((given["q"] - whole).abs().max()) > 0.01
    rows = torch.cat([part.rows(site.rows) for part in site.layout.parts])
    assert rows.sort().values.tolist() == list(range(site.rows))


@torch.no_grad()
def attention_output(family: str, site: Site, without: Tensor, ids: Tensor) -> Tensor:
    """What the first block's output projection is handed, with some rows of the fused matrix (and its bias) zero."""
    model, caught = model_of(family), []
    fused = model.get_submodule(site.name)
    site.layout.to_matrix(fused.weight)[:, without] = 0
    if fused.bias is not None:
        fused.bias[without] = 0
    holder = model.get_submodule(site.name.rpartition(".")[0])
    getattr(holder, FUSED[family]).register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
    model(input_ids=ids, use_cache=False)
    return caught[0]


@pytest.mark.parametrize(("family", "attribute"), [("phi3", "gate_up_proj"), ("glm4", "gate_up_proj")])
def test_fused_gate_and_up(family, attribute) -> None:
    """Without the gate, or without up, nothing reaches the down projection."""
    site = next(
        site for site in MemorySource(model_of(family), torch.device("cpu")).found[0].sites if attribute in site.role
    )
    assert [part.name for part in site.layout.parts] == ["gate", "up"]
    for part in site.layout.parts:
        model, caught = model_of(family), []
        with torch.no_grad():
            model.get_submodule(site.name).weight[part.rows(site.rows)] = 0
        holder = model.get_submodule(site.name.rpartition(".")[0])
        holder.down_proj.register_forward_pre_hook(lambda _module, args, caught=caught: caught.append(args[0]))
        model(input_ids=torch.arange(20).view(1, 20), use_cache=False)
        assert not caught[0].any()
