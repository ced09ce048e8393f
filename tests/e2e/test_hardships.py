"""What can go wrong between two runs, and models whose config and tensors tell different stories."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plain import perplexity_plainly
from safetensors.torch import load_file, save_file

import prunus
from prunus.checkpoint.journal import Journal
from prunus.checkpoint.work_folder import WorkFolder
from prunus.core.errors import OutputError, RecipeError, ResourceError
from tiny import model_of


def copy_of(source: Path, target: Path, change=None) -> Path:
    shutil.copytree(source, target)
    if change is not None:
        tensors = load_file(target / "model.safetensors")
        change(tensors)
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_what_a_killed_cleaning_up_leaves_is_never_resumed(checkpoint, quick, tmp_path, monkeypatch) -> None:
    """Killed between giving the output its name and removing the journal: no zeros are ever taken for finished work."""
    out = tmp_path / "out"

    def killed(self) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            prunus.prune(checkpoint("llama"), out, **quick)
    good = (out / "model.safetensors").read_bytes()
    assert (tmp_path / ".out.prunus-partial" / "done.jsonl").is_file()
    prunus.prune(checkpoint("llama"), out, resume=True, overwrite=True, **quick)
    assert (out / "model.safetensors").read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_between_the_two_renames_of_a_replacement(checkpoint, quick, tmp_path, monkeypatch) -> None:
    """What is replaced is never lost: it is set aside until the new output has its name, and its place is told."""
    out, aside = tmp_path / "out", tmp_path / ".out.prunus-partial" / "replaced"
    prunus.prune(checkpoint("llama"), out, method="magnitude", sparsity=0.25, eval_windows=0)
    old = (out / "model.safetensors").read_bytes()
    script = (
        "import sys, os, signal, pathlib, prunus\n"
        "rename = pathlib.Path.rename\n"
        "def once(self, target):\n"
        "    rename(self, target)\n"
        "    if pathlib.Path(target).name == 'replaced': os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.rename = once\n"
        "prunus.prune(sys.argv[1], sys.argv[2], overwrite=True, method='magnitude', sparsity=0.5, eval_windows=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(checkpoint("llama")), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (aside / "model.safetensors").read_bytes() == old
    with pytest.raises(OutputError, match=f"unfinished run .*once {aside}, .* has its name back"):
        prunus.prune(checkpoint("llama"), out, method="magnitude", sparsity=0.5, eval_windows=0)
    result = prunus.prune(checkpoint("llama"), out, resume=True, method="magnitude", sparsity=0.5, eval_windows=0)
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_set_aside_by_a_killed_process_is_put_back_before_it_is_cleared_away(tmp_path) -> None:
    work = WorkFolder(tmp_path / "out", "prunus-export")
    (work.path / "replaced").mkdir(parents=True)
    (work.path / "replaced" / "old").write_text("mine")
    work.take()
    work.empty()
    assert (tmp_path / "out" / "old").read_text() == "mine"
    work.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_is_taken_of_the_folder_that_is_there(tmp_path, monkeypatch) -> None:
    """A process that opened the lock just before another removed the folder makes it anew; two at once are told apart."""
    one, two = (WorkFolder(tmp_path / "out", "prunus-export") for _ in range(2))
    one.take()
    with pytest.raises(OutputError, match="another prunus process is writing it"):
        two.take()
    flock = fcntl.flock

    def late(lock, how) -> None:
        monkeypatch.undo()
        one.remove()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    two.take()
    assert (two.path / "lock").is_file()
    with pytest.raises(OutputError, match="another prunus process is writing it"):
        one.take()
    two.remove()


def test_systems_without_linux_calls_write_the_same(checkpoint, quick, tmp_path, monkeypatch) -> None:
    prunus.prune(checkpoint("llama"), tmp_path / "usual", **quick)
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "fdatasync")
    prunus.prune(checkpoint("llama"), tmp_path / "other", **quick)
    names = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("usual", "other")]
    assert names[0] == names[1]


def test_a_shard_lost_from_an_unfinished_run_is_not_made_up(checkpoint, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.verbs.prune.prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **quick)
    monkeypatch.undo()
    (tmp_path / ".out.prunus-partial" / "output" / "model.safetensors").unlink()
    with pytest.raises(OutputError, match="is gone or cut off"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", resume=True, **quick)


def test_zeros_that_no_solver_wrote_fail_the_proof(checkpoint, quick, tmp_path, monkeypatch) -> None:
    from prunus.checkpoint.writer import MirrorWriter

    put = MirrorWriter.put
    monkeypatch.setattr(MirrorWriter, "put", lambda self, tensors: put(self, {n: t * 0 for n, t in tensors.items()}))
    with pytest.raises(prunus.PrunusError, match="0 written weights are not zero, the solver left"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **quick)
    assert not (tmp_path / "out").exists()


def test_tensors_that_were_not_to_be_touched_are_checked(checkpoint, quick, tmp_path, monkeypatch) -> None:
    from prunus.checkpoint.writer import MirrorWriter

    monkeypatch.setattr(MirrorWriter, "copy", lambda self, names: None)
    with pytest.raises(prunus.PrunusError, match=r"tensor '.*' was not to be touched, but differs.* is kept in .*partial"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **quick)
    assert (tmp_path / ".out.prunus-partial").is_dir()


def test_tied_by_config_but_stored_apart_is_untied_as_transformers_does(checkpoint, quick, text_file, tokenizer, tmp_path):
    def part(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].flip(0).contiguous()

    folder = copy_of(checkpoint("gpt2"), tmp_path / "apart", part)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])[: 3 * 64].view(3, 64)
    found = prunus.evaluate(folder, text_file, seqlen=64, windows=3)
    assert found.perplexity == pytest.approx(perplexity_plainly(model, ids), rel=1e-5)
    result = prunus.prune(folder, tmp_path / "out", include=["*", "lm_head"], **quick)
    assert result.record["proof"]["parameters"] == sum(t.numel() for t in load_file(folder / "model.safetensors").values())


def test_only_the_head_of_a_tied_pair_is_stored(checkpoint, text_file, tmp_path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")

    folder = copy_of(checkpoint("gpt2"), tmp_path / "head", rename)
    one = prunus.evaluate(folder, text_file, seqlen=64, windows=2).perplexity
    assert one == prunus.evaluate(checkpoint("gpt2"), text_file, seqlen=64, windows=2).perplexity


def test_buffers_in_the_file_are_no_parameters(checkpoint, quick, tmp_path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 64, 64))

    folder = copy_of(checkpoint("gpt2"), tmp_path / "buffers", add)
    one = prunus.prune(folder, tmp_path / "one", **quick).record
    two = prunus.prune(checkpoint("gpt2"), tmp_path / "two", **quick).record
    assert one["sparsity_total"] == two["sparsity_total"]
    assert one["proof"]["parameters"] == one["plan"]["parameters"] == sum(p.numel() for p in model_of("gpt2").parameters())


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"sparsity": "2:4", "pattern": "row"}, "a pattern of its own"),
        ({"sparsity": "2:4", "pattern": "nm:n=4,m=8"}, "a pattern of its own"),
        ({"set": ["*=dense"]}, "leaves every layer dense"),
        ({"method": ["a"]}, "method .* must be text"),
        ({"criterion": 3}, "criterion 3 must be text"),
        ({"include": [3]}, "include .3. must be a list of texts"),
        ({"bogus": 1, "samples": 0}, "2 faults"),
        ({"solver": "keep:swaps=5", "pattern": "block:height=4,width=4"}, "no two weights of a row change places"),
    ],
)
def test_choices_that_contradict_each_other(settings, fault, checkpoint, tokenizer, quick, tmp_path) -> None:
    with pytest.raises(RecipeError, match=fault):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **{**quick, **settings})
    with pytest.raises(RecipeError, match=fault):
        prunus.prune(model_of("llama"), tokenizer=tokenizer, **{**quick, **settings})


def test_a_later_set_may_take_back_an_earlier_one(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", set=["*.mlp.*=0.3", "*=0.4"], method="wanda", **quick)
    assert result.sparsity == pytest.approx(0.4, abs=0.03)  # every row of 32 rounds down


def test_manual_under_n_m_leaves_the_unnamed_dense(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(
        checkpoint("llama"), tmp_path / "out", allocation="manual", sparsity="2:4", set=["*.up_proj=2:4"], **quick
    )
    assert {site["layer"] for site in result.sites} == {"mlp.up_proj"}


def test_the_record_and_the_card_name_the_pattern_that_was_used(checkpoint, quick, tmp_path) -> None:
    prunus.prune(checkpoint("llama"), tmp_path / "out", method="wanda", sparsity="2:4", **quick)
    assert "**nm** (n = 2, m = 4)" in (tmp_path / "out" / "README.md").read_text()
    record = json.loads((tmp_path / "out" / "prunus.json").read_text())
    assert record["plan"]["method"]["pattern"] == {"name": "nm", "n": 2, "m": 4}


@pytest.mark.parametrize(
    "settings", [{"true_sequential": False, "stage": ()}, {"stage": ("match:epochs=1",), "set": ("*.up_proj=0.3",)}]
)
def test_the_command_on_the_card_gives_the_same_bytes(settings, checkpoint, quick, tmp_path, monkeypatch) -> None:
    from prunus.cli.app import main

    prunus.prune(checkpoint("llama"), tmp_path / "out", method="best", **settings, **quick)
    card = (tmp_path / "out" / "README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("prunus prune ")]
    words = shlex.split(command)
    words[words.index("OUT")] = str(tmp_path / "again")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert one == two


def test_an_embedding_is_pruned_by_its_weights_alone(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(
        checkpoint("llama"), tmp_path / "out", method="magnitude", include=["*", "model.embed_tokens", "lm_head"], **quick
    )
    kinds = {site["name"]: site["error_of"] for site in result.sites if site["block"] is None}
    assert kinds == {"model.embed_tokens": "weight", "lm_head": "sample"}


def test_too_little_memory_is_foreseen(checkpoint, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.verbs.prepare.available_memory_bytes", lambda device: 1 << 20)
    with pytest.raises(ResourceError, match=r"needs about .* GiB more memory, 0\.0 GiB are free on cpu.*--memory-budget"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **quick)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_on_the_way_is_an_error_that_can_be_resumed(checkpoint, quick, tmp_path, monkeypatch) -> None:
    from prunus.checkpoint.writer import MirrorWriter

    expected = prunus.prune(checkpoint("llama"), tmp_path / "whole", **quick)
    sync, calls = MirrorWriter.sync, []

    def failing(self) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(self)

    with monkeypatch.context() as patched:
        patched.setattr(MirrorWriter, "sync", failing)
        with pytest.raises(OutputError, match="No space left on device. Free some space"):
            prunus.prune(checkpoint("llama"), tmp_path / "out", **quick)
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", resume=True, **quick)
    assert result.sparsity == expected.sparsity
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()


def test_a_resumed_global_run_surveys_only_once(checkpoint, quick, tmp_path, monkeypatch) -> None:
    settings = {**quick, "method": "wanda", "allocation": "global"}
    prunus.prune(checkpoint("llama"), tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        patched.setattr("prunus.verbs.prune.prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prunus.prune(checkpoint("llama"), tmp_path / "out", **settings)
    monkeypatch.setattr("prunus.verbs.prepare.make_profile", lambda *_: pytest.fail("surveyed again"))
    prunus.prune(checkpoint("llama"), tmp_path / "out", resume=True, **settings)
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()
