"""Export: what is packed loads where serving engines load it, and computes what the plain checkpoint computes."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import prunus
from prunus.checkpoint.compressed_tensors import pack, unpack
from prunus.checkpoint.levels import FILE, StoredLevels
from prunus.checkpoint.safetensors_file import write_file
from prunus.checkpoint.work_folder import WorkFolder
from prunus.core.errors import CheckpointError, OutputError, UnsupportedModelError
from prunus.exports import compressed_tensors
from stopping import stopped_and_resumed
from tiny import VOCABULARY

FOUR = {"method": "balanced", "sparsity": 0.5, "grid": "int:bits=4,group=16"}
IDS = torch.randint(2, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))


def logits(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


@pytest.mark.parametrize("grid", ["bits=4,group=16", "bits=8,group=0", "bits=8,group=32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_it_and_computes_the_same(grid, dtype, checkpoint, quick, tmp_path) -> None:
    settings = {**quick, **FOUR, "grid": f"int:{grid}"}
    prunus.prune(checkpoint("llama", dtype), tmp_path / "plain", **settings)
    told = prunus.export(tmp_path / "plain", tmp_path / "packed")
    assert told.layers == 3 * 7
    assert told.packed_bytes < told.plain_bytes
    assert [check.largest for check in told.checks] == [0.0]
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    torch.testing.assert_close(logits(tmp_path / "packed", dtype), logits(tmp_path / "plain", dtype), rtol=0, atol=0)


def test_what_changed_places_is_packed_in_its_new_place(checkpoint, quick, tmp_path) -> None:
    """Codes and scales of rows that a permutation moved; every layer is unpacked again on the way."""
    settings = {**quick, **FOUR, "sparsity": "2:4", "stage": ["permute"]}
    result = prunus.prune(checkpoint("llama"), tmp_path / "plain", **settings)
    assert result.sparsity >= 0.5
    assert prunus.export(tmp_path / "plain", tmp_path / "packed").layers == 3 * 7


def test_the_library_of_the_layout_packs_alike() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    for bits in (4, 8):
        codes = torch.randint(0, 1 << bits, (6, 40), generator=torch.Generator().manual_seed(bits))
        signed = (codes - (1 << bits - 1)).to(torch.int8)
        assert torch.equal(pack(codes, bits), pack_to_int32(signed, bits))
        assert torch.equal(unpack_from_int32(pack(codes, bits), bits, codes.shape), signed)
        assert torch.equal(unpack(pack(codes, bits), bits, 40), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_library_reads_grids_that_are_not_symmetric(dtype, checkpoint, quick, tmp_path) -> None:
    """By itself: Transformers' loader, with compressed-tensors 0.19, expects their zeros unpacked and refuses them."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    settings = {**quick, **FOUR, "grid": "int:bits=4,group=16,symmetric=false"}
    prunus.prune(checkpoint("llama", dtype), tmp_path / "plain", **settings)
    (note,) = prunus.export(tmp_path / "plain", tmp_path / "packed").notes
    assert "it refuses zero points that are packed" in note
    config = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    args = QuantizationArgs(**config["config_groups"]["group_0"]["weights"])
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    plain, packed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "packed"))
    owners = [name.removesuffix("_packed") for name in packed if name.endswith("_packed")]
    assert len(owners) == 3 * 7
    for weight in owners:
        parts = {name.rpartition(".")[2]: packed[name] for name in packed if name.startswith(weight)}
        found = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        assert found.dtype == dtype
        assert torch.equal(found, plain[weight]), weight


def test_only_quantised_is_exported_too_and_shards_stay_shards(checkpoint, tokenizer, quick, tmp_path) -> None:
    transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama")).save_pretrained(
        tmp_path / "model", max_shard_size="60KB"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    prunus.prune(tmp_path / "model", tmp_path / "plain", **{**quick, **FOUR, "sparsity": 0.0})
    prunus.export(tmp_path / "plain", tmp_path / "packed")
    dtype = torch.float32
    torch.testing.assert_close(logits(tmp_path / "packed", dtype), logits(tmp_path / "plain", dtype), rtol=0, atol=0)


def test_a_resumed_run_has_the_levels_of_every_block(checkpoint, quick, tmp_path) -> None:
    prunus.prune(checkpoint("llama"), tmp_path / "whole", **quick, **FOUR)
    stopped_and_resumed(checkpoint("llama"), tmp_path / "out", **quick, **FOUR)
    one, other = (load_file(tmp_path / name / FILE) for name in ("whole", "out"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def gridded(checkpoint, quick, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gridded") / "out"
    prunus.prune(checkpoint("llama"), folder, **quick, **FOUR)
    return folder


def test_overwrite_replaces_an_earlier_checkpoint(gridded, checkpoint, tmp_path) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "packed")
    with pytest.raises(OutputError, match="exists already"):
        prunus.export(gridded, tmp_path / "packed")
    prunus.export(gridded, tmp_path / "packed", overwrite=True)
    assert "quantization_config" in json.loads((tmp_path / "packed" / "config.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_codes_are_whole_numbers_of_their_bits(gridded) -> None:
    levels, weights = StoredLevels.open(gridded), load_file(gridded / "model.safetensors")
    assert levels.grid == {"name": "int", "bits": 4, "group": 16, "symmetric": True, "search": 16}
    for parameter in levels.scales:
        codes = levels.codes(parameter, weights[parameter].unsqueeze(0))
        assert torch.equal(codes, codes.round())
        assert codes.min() >= -8
        assert codes.max() <= 7


def test_zeros_of_a_grid_are_kept_where_nothing_but_zero_is_left(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, **FOUR, "grid": "int:bits=4,group=16,symmetric=false", "set": ["*.1.mlp.down_proj=1.0"]}
    prunus.prune(checkpoint("llama"), tmp_path / "plain", **settings)
    prunus.export(tmp_path / "plain", tmp_path / "packed")
    packed = load_file(tmp_path / "packed" / "model.safetensors")
    owners = {name.removesuffix("_packed") for name in packed if name.endswith("_packed")}
    assert owners == {name.removesuffix("_zero_point") for name in packed if name.endswith("_zero_point")}
    assert "model.layers.1.mlp.down_proj.weight" in owners


def test_what_was_left_dense_is_stored_plainly(checkpoint, quick, tmp_path) -> None:
    """Experts that too few tokens reached: here all of them, with more asked for than there are."""
    settings = {**quick, **FOUR, "starved_experts": "dense", "min_expert_tokens": 10**6}
    prunus.prune(checkpoint("mixtral"), tmp_path / "plain", **settings)
    (note,) = prunus.export(tmp_path / "plain", tmp_path / "packed").notes
    assert "it stacks this model's experts" in note
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint("mixtral"), tmp_path / "packed"))
    experts = [name for name in before if ".experts." in name]
    assert experts
    assert all(torch.equal(before[name], after[name]) for name in experts)
    assert sum(name.endswith("_packed") for name in after) == 3 * 4
    ignored = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]["ignore"]
    plain = {name.removesuffix(".weight") for name in experts}
    assert plain <= set(ignored)
    assert not any(f"{name}.weight_packed" in after for name in ignored)
    assert "model.embed_tokens" not in ignored


def test_an_export_that_fails_on_the_way_leaves_what_was_there(gridded, checkpoint, tmp_path, monkeypatch) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "packed")
    before = (tmp_path / "packed" / "model.safetensors").read_bytes()
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.name == "output":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space left"):
        prunus.export(gridded, tmp_path / "packed", overwrite=True)
    assert (tmp_path / "packed" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_what_comes_into_its_place_meanwhile_is_kept(gridded, tmp_path, monkeypatch) -> None:
    write_rest = compressed_tensors._write_rest

    def meanwhile(*given: object) -> None:
        write_rest(*given)
        (tmp_path / "packed").write_text("another's")

    monkeypatch.setattr(compressed_tensors, "_write_rest", meanwhile)
    with pytest.raises(OutputError, match="exists already"):
        prunus.export(gridded, tmp_path / "packed")
    assert (tmp_path / "packed").read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_two_exports_to_one_place_stay_out_of_each_others_way(gridded, tmp_path) -> None:
    other = WorkFolder(tmp_path / "packed", "prunus-export")
    other.take()
    with pytest.raises(OutputError, match="another prunus process is writing it"):
        prunus.export(gridded, tmp_path / "packed")
    assert other.path.is_dir()
    other.remove()
    prunus.export(gridded, tmp_path / "packed")


def test_engines_find_no_files_but_the_models(gridded) -> None:
    """Some read whatever is called *.safetensors."""
    assert [path.name for path in gridded.glob("*.safetensors")] == ["model.safetensors"]


def test_a_disk_that_is_full_is_told_in_words(gridded, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left"):
        prunus.export(gridded, tmp_path / "packed")
    assert not list(tmp_path.iterdir())


def test_weights_that_left_the_grid_are_refused(gridded, tmp_path) -> None:
    shutil.copytree(gridded, tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(weights, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight: its weights are not those"):
        prunus.export(tmp_path / "tuned", tmp_path / "packed")
    assert not list(tmp_path.glob("*packed*"))
    assert not list(tmp_path.glob(".*"))


def test_bad_input_is_refused_in_words(gridded, checkpoint, quick, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"no grid.prunus there"):
        prunus.export(checkpoint("llama"), tmp_path / "packed")
    with pytest.raises(OutputError, match="exists already"):
        prunus.export(gridded, tmp_path)
    with pytest.raises(OutputError, match="is the model itself"):
        prunus.export(gridded, gridded, overwrite=True)
    with pytest.raises(OutputError, match="has the model in it"):
        prunus.export(gridded, gridded.parent, overwrite=True)
    shutil.copytree(gridded, tmp_path / "strange")
    levels = StoredLevels.open(gridded)
    write_file(tmp_path / "strange" / FILE, {"other.weight.scales": torch.ones(1, 2, 1)}, {"grid": json.dumps(levels.grid)})
    with pytest.raises(CheckpointError, match=r"is of another model \(other.weight\)"):
        prunus.export(tmp_path / "strange", tmp_path / "packed")
    shutil.copytree(gridded, tmp_path / "broken")
    (tmp_path / "broken" / FILE).write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        prunus.export(tmp_path / "broken", tmp_path / "packed")
    for grid in ([1], {"bits": 4}):
        write_file(tmp_path / "strange" / FILE, {}, {"grid": json.dumps(grid)})
        with pytest.raises(CheckpointError, match="does not say what its grid is"):
            prunus.export(tmp_path / "strange", tmp_path / "packed")
    narrow = {f"{name}.scales": scales[..., :1, :] for name, scales in levels.scales.items()}
    write_file(tmp_path / "strange" / FILE, narrow, {"grid": json.dumps(levels.grid)})
    with pytest.raises(CheckpointError, match=r"scales in grid.prunus do not fit, \[1, 1, "):
        prunus.export(tmp_path / "strange", tmp_path / "packed")
    prunus.prune(checkpoint("llama"), tmp_path / "three", **quick, **{**FOUR, "grid": "int:bits=3,group=16"})
    with pytest.raises(UnsupportedModelError, match="codes of 3 bits"):
        prunus.export(tmp_path / "three", tmp_path / "packed")
    prunus.prune(checkpoint("gpt2"), tmp_path / "transposed", **quick, **FOUR)
    with pytest.raises(UnsupportedModelError, match="Conv1D is no plain linear layer"):
        prunus.export(tmp_path / "transposed", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
