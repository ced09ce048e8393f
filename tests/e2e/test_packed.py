"""Packed checkpoints: the same bytes when unpacked, the same words when run, and refused when damaged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import prunus
from prunus.checkpoint.packed_file import DIGEST, KEY
from prunus.checkpoint.safetensors_file import SafetensorsFile
from prunus.core.errors import CheckpointError, NumericalError, OutputError, RecipeError, UnsupportedModelError
from prunus.core.progress import Silent
from prunus.runtime.choose import keep_fastest
from prunus.runtime.library import kernels
from prunus.runtime.linear import PackedLinear
from prunus.runtime.load import load_packed
from prunus.verbs.load import load
from tiny import VOCABULARY

IDS = torch.randint(2, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))


def zeroed(folder: Path, target: Path, share: float = 0.5, pairs: bool = False) -> Path:
    """A checkpoint with zeros, of both signs, in its blocks' matrices."""
    shutil.copytree(folder, target)
    generator = torch.Generator().manual_seed(1)
    for path in target.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if (tensor.dim() >= 2 and ".layers." in name) or (".h." in name and tensor.dim() == 2):
                if pairs:
                    groups = torch.rand(tensor.numel() // 4, 4, generator=generator)
                    keep = (
                        torch.zeros_like(groups, dtype=torch.bool)
                        .scatter_(1, groups.topk(2).indices, True)
                        .view(tensor.shape)
                    )
                    tensors[name] = torch.where(keep, tensor, torch.zeros((), dtype=tensor.dtype))
                else:
                    tensors[name] = tensor * (torch.rand(tensor.shape, generator=generator) >= share)
        save_file(tensors, path, metadata={"format": "pt"})
    return target


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()  # type: ignore[operator]


def plain_model(folder: Path) -> object:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def same_folders(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert sorted(path.name for path in other.iterdir()) == names
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpacking_gives_the_same_bytes_and_running_the_same_logits(family, dtype, checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint(family, dtype), tmp_path / "plain")
    told = prunus.pack(plain, tmp_path / "packed")
    assert told.layers
    assert all(layer.error == 0 and layer.storage == "bitmask" for layer in told.layers)
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    same_folders(plain, tmp_path / "again")
    model = load(tmp_path / "packed", keep="packed")
    torch.testing.assert_close(logits(model), logits(plain_model(plain)), rtol=1e-4, atol=1e-4)
    packed = sum(isinstance(module, PackedLinear) for module in model.modules())
    assert packed == (3 * 4 if family in ("mixtral", "gpt2", "gpt_neox") else 3 * 7)


def test_pairs_in_codes_run_like_what_they_unpack_to(checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain", pairs=True)
    for values, near in (("bfloat16", 0.01), ("int8", 0.05), ("int4", 0.05)):
        told = prunus.pack(plain, tmp_path / values, values=values, group=32, head="int8")
        assert {layer.storage for layer in told.layers} == {"nm:n=2,m=4", "dense"}
        prunus.unpack(tmp_path / values, tmp_path / f"{values}-again")
        one, two = logits(load(tmp_path / values, keep="packed")), logits(plain_model(tmp_path / f"{values}-again"))
        assert (one - two).norm() < near * two.norm()


def test_codes_of_a_grid_are_packed_as_they_are(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "method": "balanced", "sparsity": "2:4", "grid": "int:bits=4,group=16"}
    prunus.prune(checkpoint("llama"), tmp_path / "plain", **settings)
    told = prunus.pack(tmp_path / "plain", tmp_path / "packed")
    assert {(layer.values, layer.error) for layer in told.layers} == {("int4, group 16", 0.0)}
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    plain, again = (tmp_path / name / "model.safetensors" for name in ("plain", "again"))
    assert plain.read_bytes() == again.read_bytes()
    wider = prunus.pack(tmp_path / "plain", tmp_path / "wider", values="int8")
    assert {(layer.values, layer.error) for layer in wider.layers} == {("int8, group 16", 0.0)}
    prunus.prune(checkpoint("llama"), tmp_path / "lopsided", **{**settings, "grid": "int:bits=4,group=16,symmetric=false"})
    with pytest.raises(UnsupportedModelError, match="not symmetric"):
        prunus.pack(tmp_path / "lopsided", tmp_path / "no")
    assert prunus.pack(tmp_path / "lopsided", tmp_path / "floats", values="float32").layers


def test_a_sharded_checkpoint_stays_sharded(checkpoint, tmp_path) -> None:
    model = plain_model(checkpoint("llama"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")  # type: ignore[attr-defined]
    plain = zeroed(tmp_path / "sharded", tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) > 1
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    same_folders(plain, tmp_path / "again")


def test_packed_checkpoints_are_judged_as_what_they_unpack_to(checkpoint, text_file, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    one, two = (prunus.evaluate(tmp_path / name, text_file, seqlen=64, windows=2) for name in ("plain", "packed"))
    assert one.perplexity == two.perplexity
    told = prunus.compare(plain, tmp_path / "packed", text=text_file, seqlen=64, windows=2, quality_only=True)
    assert told.pruned.kl.value == 0
    assert told.pruned.disk_bytes < told.dense.disk_bytes


def test_others_refuse_what_they_cannot_read(checkpoint, quick, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    for verb in (prunus.pack, prunus.export):
        with pytest.raises(CheckpointError, match="Unpack it first"):
            verb(tmp_path / "packed", tmp_path / "no")
    with pytest.raises(CheckpointError, match="Unpack it first"):
        prunus.prune(tmp_path / "packed", tmp_path / "no", **quick)
    with pytest.raises(CheckpointError, match="is not packed"):
        prunus.unpack(plain, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_packed_is_refused(checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    with pytest.raises(UnsupportedModelError, match="nothing to pack"):
        prunus.pack(checkpoint("llama"), tmp_path / "no")
    with pytest.raises(UnsupportedModelError, match=r"a group of 4 keeps \d, more than 2"):
        prunus.pack(plain, tmp_path / "no", storage="nm:n=2,m=4")
    with pytest.raises(RecipeError) as caught:
        prunus.pack(plain, tmp_path / "no", storage="bitmaks", values="int3", coder="huffmann", head="float32", group=-1)
    assert len(caught.value.faults) == 5
    tensors = load_file(plain / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if name.endswith("up_proj.weight"))[0, 0] = float("nan")
    shutil.copytree(plain, tmp_path / "broken")
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    for values in ("int8", "shared4"):
        with pytest.raises(NumericalError, match=r"up_proj\.weight holds NaN or Inf"):
            prunus.pack(tmp_path / "broken", tmp_path / "no", values=values)
    assert not (tmp_path / "no").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        prunus.pack(plain, tmp_path / "there")
    with pytest.raises(OutputError, match="neither a checkpoint"):
        prunus.pack(plain, tmp_path / "there", overwrite=True)
    assert not (tmp_path / "no").exists()
    assert not list(tmp_path.glob(".*"))


def test_every_flipped_bit_and_every_cut_is_refused(checkpoint, tmp_path) -> None:
    """In the header, in the metadata, in positions, values and what was not packed."""
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed", values="int8")
    path = tmp_path / "packed" / "packed-model.safetensors"
    whole, generator = path.read_bytes(), torch.Generator().manual_seed(0)
    header = 8 + int.from_bytes(whole[:8], "little")

    def broken(data: bytes) -> None:
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_packed(tmp_path / "packed", Silent())

    places = [*range(9), *torch.randint(8, header, (150,), generator=generator).tolist()]
    places += torch.randint(header, len(whole), (60,), generator=generator).tolist()
    for place in places:
        bit = 1 << int(torch.randint(0, 8, (), generator=generator))
        broken(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    for length in (0, 7, 8, 100, header - 1, header, header + 1, len(whole) - 1):
        broken(whole[:length])
    path.write_bytes(whole)
    load_packed(tmp_path / "packed", Silent())


@pytest.mark.parametrize("lie", ["shape", "storage", "values", "version", "parts", "tensor"])
def test_a_file_that_lies_with_a_digest_of_its_own_is_refused(lie, checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    path = tmp_path / "packed" / "packed-model.safetensors"
    file = SafetensorsFile.open(path)
    about = json.loads(file.metadata[KEY])
    name = next(iter(about["weights"]))
    lies = {"shape": [1 << 40, 1 << 40], "storage": {"name": "columns"}, "values": {"kind": "int8", "group": 0}}
    if lie == "version":
        about["version"] = 2
    elif lie == "parts":
        about["weights"][name]["parts"] = ["mask"]
    elif lie == "tensor":
        about["weights"][name]["tensor"] = [7, 7]
    else:
        about["weights"][name][lie] = lies[lie]
    from prunus.checkpoint.packed_file import _digest_of

    text = json.dumps(about)
    save_file(load_file(path), path, metadata={"format": "pt", KEY: text, DIGEST: "0"})
    text_digest = _digest_of(SafetensorsFile.open(path).entries, text)
    save_file(load_file(path), path, metadata={"format": "pt", KEY: text, DIGEST: text_digest})
    with pytest.raises(CheckpointError):
        load_packed(tmp_path / "packed", Silent())


def test_a_killed_pack_leaves_nothing_and_is_repeated(checkpoint, tmp_path, monkeypatch) -> None:
    from prunus.checkpoint.packed_file import PackedWriter

    plain = zeroed(checkpoint("llama"), tmp_path / "plain")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PackedWriter, "finish", full)
        with pytest.raises(OutputError, match="No space left on device"):
            prunus.pack(plain, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    assert not list(tmp_path.glob(".*"))
    assert prunus.pack(plain, tmp_path / "packed").layers


def test_without_kernels_all_runs_unpacked(checkpoint, tmp_path, monkeypatch) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    kernels.cache_clear()
    monkeypatch.setenv("PRUNUS_KERNELS", "none")
    try:
        loaded = load_packed(tmp_path / "packed", Silent())
        assert loaded.packed == 0
        torch.testing.assert_close(logits(loaded.model), logits(plain_model(plain)), rtol=1e-5, atol=1e-5)
    finally:
        kernels.cache_clear()


@pytest.mark.parametrize("values", ["float32", "int8", "int4"])
def test_layers_that_gain_nothing_are_made_dense_with_the_same_weights(values, checkpoint, tmp_path, monkeypatch) -> None:
    from prunus.runtime import choose

    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed", values=values)
    packed = load_packed(tmp_path / "packed", Silent())
    before = logits(packed.model)
    monkeypatch.setattr(choose, "times", lambda *_: (2.0, 1.0))
    choices = keep_fastest(packed, Silent())
    assert not any(choice.keeps_packed for choice in choices)
    assert sum(choice.layers for choice in choices) == 3 * 7
    assert packed.packed == 0
    torch.testing.assert_close(logits(packed.model), before, rtol=1e-4, atol=1e-4)


def test_a_tied_head_gets_codes_that_no_file_holds(checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("gemma2"), tmp_path / "plain")
    assert "lm_head.weight" not in load_file(plain / "model.safetensors")
    prunus.pack(plain, tmp_path / "packed")
    prunus.pack(plain, tmp_path / "coded", head="int8")
    sizes = [(tmp_path / name / "packed-model.safetensors").stat().st_size for name in ("packed", "coded")]
    assert sizes[0] == sizes[1]
    model = load(tmp_path / "coded", keep="packed")
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    wanted = logits(plain_model(plain))
    assert (logits(model) - wanted).norm() < 0.05 * wanted.norm()


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    from prunus.cli.app import main

    monkeypatch.setattr(sys, "argv", ["prunus", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_draws_are_the_seed_s_and_the_caller_s_chance_goes_on(checkpoint) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [
        prunus.generate(checkpoint("llama"), ["The country"], new_tokens=12, temperature=2.0, seed=seed).texts
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(1), expected)
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_command_line_packs_generates_benches_and_unpacks(checkpoint, tmp_path, capsys, monkeypatch) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    code, out, _ = run(capsys, monkeypatch, "pack", plain, "-o", tmp_path / "packed", "--json")
    assert code == 0
    assert json.loads(out)["packed_bytes"] < json.loads(out)["plain_bytes"]
    words = ["-p", "The country", "-p", "A", "--new-tokens", 5, "--json"]
    texts = []
    for folder in ("plain", "packed"):
        code, out, _ = run(capsys, monkeypatch, "generate", tmp_path / folder, *words)
        assert code == 0
        texts.append(json.loads(out)["texts"])
    assert texts[0] == texts[1]
    code, out, err = run(capsys, monkeypatch, "generate", tmp_path / "packed", "-p", "The country", "--new-tokens", 5)
    assert (code, out.strip()) == (0, texts[0][0].strip())
    assert "linear layers packed" in err
    monkeypatch.setattr("prunus.exports.onnx.find_spec", lambda _: None)  # engines have tests of their own
    monkeypatch.delenv("PRUNUS_LLAMA_CPP", raising=False)
    code, out, _ = run(
        capsys, monkeypatch, "bench", tmp_path / "packed", "--prompt-tokens", 8, "--new-tokens", 3, "--repeats", 2, "--json"
    )  # fmt: skip
    told = json.loads(out)
    assert code == 0
    assert [way["name"] for way in told["ways"]][1:] == ["float32", "bfloat16", "torch int8", "dense int8"]
    assert all(way["decode_tokens_per_second"]["median"] > 0 for way in told["ways"])
    code, out, _ = run(capsys, monkeypatch, "unpack", tmp_path / "packed", "-o", tmp_path / "again")
    assert code == 0
    same_folders(plain, tmp_path / "again")


@pytest.mark.parametrize(("words", "said"), [
    (["generate", "{packed}", "-p", ""], "is empty"),
    (["generate", "{packed}", "-p", "A", "--top-p", "2"], "top_p must be above 0"),
    (["generate", "{packed}", "-p", "A", "--chat"], "no chat template"),
    (["bench", "{packed}", "--way", "float23"], "did you mean 'float32'"),
])  # fmt: skip
def test_wrong_words_are_told(words, said, checkpoint, tmp_path, capsys, monkeypatch) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    prunus.pack(plain, tmp_path / "packed")
    code, _, err = run(capsys, monkeypatch, *[word.format(packed=tmp_path / "packed") for word in words])
    assert code == 3
    assert said in " ".join(err.split())


def coded(folder: Path, target: Path, **settings: object) -> prunus.Packed:
    return prunus.pack(folder, target, storage="gaps", **{"values": "shared5", "coder": "huffman", **settings})


@pytest.mark.parametrize(("values", "coder"), [("shared5", "huffman"), ("shared4", "ans"), ("auto", "ans"), ("int8", "ans"),
                                               ("int4", "huffman"), ("shared3", "fixed")])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_coded_for_distribution_is_read_by_all_verbs(values, coder, dtype, checkpoint, text_file, tmp_path) -> None:
    plain = zeroed(checkpoint("llama", dtype), tmp_path / "plain")
    told = coded(plain, tmp_path / "packed", values=values, coder=coder)
    assert len(told.layers) == 3 * 7
    assert all(layer.storage.startswith("gaps:bits=") and layer.coder == coder for layer in told.layers)
    if values != "auto":  # there the signs of zeros are kept as well
        assert all(layer.nbytes == pytest.approx(layer.planned_bytes, rel=0.02) for layer in told.layers)
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    if values == "auto":
        same_folders(plain, tmp_path / "again")
    wanted = logits(plain_model(tmp_path / "again"))
    found = logits(load(tmp_path / "packed", keep="packed"))
    assert (found - wanted).norm() < (0.05 if values.startswith("int") else 1e-4) * wanted.norm()
    one, two = (prunus.evaluate(tmp_path / name, text_file, seqlen=64, windows=2) for name in ("again", "packed"))
    assert one.perplexity == two.perplexity
    said = [prunus.generate(tmp_path / name, ["The country"], new_tokens=5).texts for name in ("again", "packed")]
    assert said[0] == said[1] or values.startswith("int")


def test_shared_values_are_kept_to_the_bit_once_they_are_few(checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("mixtral"), tmp_path / "plain")
    told = coded(plain, tmp_path / "packed")
    assert 0 < max(layer.error for layer in told.layers) < 0.1
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    told = coded(tmp_path / "again", tmp_path / "repacked", coder="ans")
    assert {layer.error for layer in told.layers} == {0.0}
    prunus.unpack(tmp_path / "repacked", tmp_path / "once-more")
    same_folders(tmp_path / "again", tmp_path / "once-more")


@pytest.mark.parametrize("coder", ["fixed", "huffman", "ans"])
def test_the_last_stage_is_what_is_in_the_file(coder, checkpoint, tmp_path, capsys, monkeypatch) -> None:
    plain, packed = zeroed(checkpoint("llama"), tmp_path / "plain"), tmp_path / "packed"
    words = ["pack", plain, "-o", packed, "--storage", "gaps", "--values", "shared4", "--coder", coder]
    code, out, _ = run(capsys, monkeypatch, *words, "--json")
    assert code == 0
    told, tensors = json.loads(out), load_file(packed / "packed-model.safetensors")
    last = {"fixed": "shared"}.get(coder, coder)
    sizes = {layer["name"]: layer["stages"]["nbytes"][last] for layer in told["layers"]}
    for name, size in sizes.items():
        assert size == sum(tensor.nbytes for part, tensor in tensors.items() if part.startswith(f"{name}."))
    assert told["stages"]["nbytes"][last] == sum(sizes.values())
    assert told["stages"]["ratios"][last] == pytest.approx(4 * told["stages"]["weights"] / sum(sizes.values()))
    assert json.loads((packed / "prunus.json").read_text())["stages"] == told["stages"]
    code, out, _ = run(capsys, monkeypatch, *words, "--overwrite")
    assert code == 0
    row = next(line for line in out.splitlines() if line.strip().startswith("together"))
    assert [f"{ratio:.2f}" for ratio in told["stages"]["ratios"].values()] == row.split()[-4:]
    assert "…" not in row


def test_dense_layers_share_values_too(checkpoint, tmp_path) -> None:
    told = prunus.pack(checkpoint("gpt2"), tmp_path / "packed", values="shared6", coder="ans")
    assert {(layer.storage, layer.values) for layer in told.layers} == {("dense", "shared6")}
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    one, two = logits(load(tmp_path / "packed")), logits(plain_model(tmp_path / "again"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coder", ["huffman", "ans"])
def test_every_flipped_bit_of_a_coded_file_is_refused(coder, checkpoint, tmp_path) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    coded(plain, tmp_path / "packed", coder=coder)
    path = tmp_path / "packed" / "packed-model.safetensors"
    whole, generator = path.read_bytes(), torch.Generator().manual_seed(0)
    for place in torch.randint(0, 8 * len(whole), (60,), generator=generator).tolist():
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(CheckpointError):
            load_packed(tmp_path / "packed", Silent())


@pytest.mark.parametrize("coder", ["huffman", "ans"])
@pytest.mark.parametrize("part", ["values", "gaps", "gaps_lengths", "gaps_frequencies", "values_sizes", "codebook"])
def test_coded_parts_that_lie_with_digests_of_their_own_are_refused(part, coder, checkpoint, tmp_path) -> None:
    """Noise of the right size in the place of a stream or table, as if someone had packed it so."""
    from prunus.checkpoint.packed_file import _digest_of, digest
    from prunus.checkpoint.safetensors_file import raw_bytes

    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    coded(plain, tmp_path / "packed", coder=coder)
    path = tmp_path / "packed" / "packed-model.safetensors"
    tensors, about = load_file(path), json.loads(SafetensorsFile.open(path).metadata[KEY])
    name = next((name for name in tensors if name.endswith(f".{part}")), None)
    if name is None:
        return  # a part of the other coder
    noise = torch.randint(0, 256, (tensors[name].nbytes,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tensors[name] = noise.view(tensors[name].dtype).view(tensors[name].shape)
    about["digests"][name] = digest(raw_bytes(tensors[name]))
    text = json.dumps(about)
    save_file(tensors, path, metadata={"format": "pt", KEY: text, DIGEST: "0"})
    save_file(
        tensors, path, metadata={"format": "pt", KEY: text, DIGEST: _digest_of(SafetensorsFile.open(path).entries, text)}
    )
    for read in (
        lambda: load_packed(tmp_path / "packed", Silent()),
        lambda: prunus.unpack(tmp_path / "packed", tmp_path / "no"),
    ):
        with pytest.raises(CheckpointError, match="cannot be unpacked"):
            read()


def test_a_library_that_is_not_there_is_named(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    plain = zeroed(checkpoint("llama"), tmp_path / "plain")
    coded(plain, tmp_path / "packed", coder="ans")
    monkeypatch.setitem(sys.modules, "constriction", None)
    packed, no = tmp_path / "packed", tmp_path / "no"
    for words in (
        ["pack", plain, "-o", no, "--coder", "ans"],
        ["unpack", packed, "-o", no],
        ["generate", packed, "-p", "A"],
    ):
        code, _, err = run(capsys, monkeypatch, *words)
        assert code == 10
        assert "pip install 'prunus[ans]'" in " ".join(err.split())
    assert not (tmp_path / "no").exists()
