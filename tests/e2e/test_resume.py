"""Killed and resumed: what is written is byte for byte what an uninterrupted run writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import prunus
from prunus.checkpoint.journal import Journal
from stopping import StopAfter, stopped_and_resumed

COMPARED = ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_START = 4.0
"""Seconds until a process begins its work, about."""


def command(source: Path, out: Path, quick: dict[str, object], verb: str = "prune") -> list[str]:
    words = [word for key, value in quick.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "prunus", verb, str(source), "-o", str(out), "--resume", *words]


def same(one: Path, two: Path) -> bool:
    present = [name for name in COMPARED if (one / name).is_file()]
    return len(present) >= 4 and all((one / name).read_bytes() == (two / name).read_bytes() for name in present)


def kill_until_done(words: list[str], out: Path, moments: list[float]) -> int:
    """Start again and again, SIGKILL after each of ``moments`` seconds, then let it finish; how many kills struck."""
    struck = 0
    for moment in moments:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        struck += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    subprocess.run(words, check=True, capture_output=True)
    return struck


def moments_within(seconds: float, kills: int, seed: int) -> list[float]:
    """Random moments early enough in a run of ``seconds`` (its start takes some) that several kills strike."""
    chance = random.Random(seed)
    return [round(chance.uniform(_START, _START + 0.25 * seconds), 2) for _ in range(kills)]


def kill_behind(words: list[str], out: Path, blocks: int) -> None:
    """Start, and SIGKILL as soon as so many ``blocks`` are finished."""
    journal = Journal(out)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.unfinished and len(journal.entries()) >= blocks):
        time.sleep(0.005)
    assert process.poll() is None, "finished before it could be killed"
    process.kill()
    process.wait()


def test_killed_and_resumed(checkpoint, quick, tmp_path) -> None:
    """Within every block of a run, the first included, and twice within one of them."""
    settings = {**quick, "samples": 64, "seqlen": 128, "batch_tokens": 256}
    prunus.prune(checkpoint("mixtral"), tmp_path / "whole", **settings)
    words = command(checkpoint("mixtral"), tmp_path / "killed", settings)
    for blocks in (0, 1, 1, 2):
        kill_behind(words, tmp_path / "killed", blocks)
    subprocess.run(words, check=True, capture_output=True)
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}


@pytest.mark.slow
def test_the_real_model_killed_at_ten_random_moments(smollm: Path, tmp_path) -> None:
    settings = {"samples": 8, "seqlen": 256, "eval_windows": 0}
    seconds = prunus.prune(smollm, tmp_path / "whole", **settings).record["seconds"]
    moments = moments_within(seconds, 10, int(os.environ.get("PRUNUS_SEED", "0")))
    struck = kill_until_done(command(smollm, tmp_path / "killed", settings), tmp_path / "killed", moments)
    assert struck >= 5
    assert same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        (prunus.shrink, {"neurons": 1024, "heads": 6, "samples": 8, "seqlen": 64}),
        (prunus.shrink, {"params": "0.8x", "along": "neurons", "samples": 8, "seqlen": 64}),
        (prunus.recover, {"tokens": 2048, "seqlen": 64, "evaluations": 4}),
        (prunus.distill, {"tokens": 2048, "seqlen": 64, "evaluations": 4, "teacher": "", "loss": "kl"}),
    ],
    ids=["shrink", "search", "recover", "distill"],
)
def test_the_real_model_killed_whatever_is_done(verb, settings, smollm: Path, tmp_path, tmp_path_factory) -> None:
    settings, model = {**settings, "eval_windows": 0}, smollm
    if "teacher" in settings:  # which teaches a model that was cut from it
        settings["teacher"], model = str(smollm), tmp_path_factory.mktemp("student") / "cut"
        prunus.shrink(smollm, model, neurons=1024, importance="weight", solver="keep", eval_windows=0)
    listed = {key: [value] if key in {"params", "along", "loss"} else value for key, value in settings.items()}
    start = time.monotonic()
    verb(model, tmp_path / "whole", **listed)
    seconds = time.monotonic() - start
    words = command(model, tmp_path / "killed", settings, verb.__name__)
    moments = [_START + share * seconds for share in (0.1, 0.3, 0.5, 0.7, 0.5)]
    assert kill_until_done(words, tmp_path / "killed", moments) >= 2
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma4"])
@pytest.mark.parametrize("saved", [True, False])
def test_stopped_after_every_block(family, saved, checkpoint, quick, tmp_path, monkeypatch) -> None:
    """With the state saved at every block nothing is replayed; without, finished blocks are, to the same bytes.

    Gemma 4's later blocks read keys and values of earlier ones, so that its blocks are always replayed.
    """
    monkeypatch.setattr("prunus.stream.loop.STATE_SECONDS", -1.0 if saved else 1e9)
    include = ["*", "lm_head"] if family == "llama" else ["*"]
    settings = {**quick, "include": include}
    prunus.prune(checkpoint(family), tmp_path / "whole", **settings)
    replayed = 0
    for _ in range(3):
        stopper = StopAfter(1)
        with pytest.raises(KeyboardInterrupt):
            prunus.prune(checkpoint(family), tmp_path / "out", resume=True, progress=stopper, **settings)
        replayed += stopper.replayed
    assert len(Journal(tmp_path / "out").entries()) == 3
    prunus.prune(checkpoint(family), tmp_path / "out", resume=True, **settings)
    assert same(tmp_path / "whole", tmp_path / "out")
    assert (replayed == 0) == (saved and family != "gemma4")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "balanced", "target": "dense"},
        {"stage": ["match:batch_tokens=128"]},
        {"method": "best", "sparsity": "2:4"},
    ],
    ids=["dense target", "match", "best"],
)
def test_taken_up_from_saved_states(settings, checkpoint, quick, tmp_path, monkeypatch) -> None:
    """Of both streams, where the method carries the dense model's beside."""
    monkeypatch.setattr("prunus.stream.loop.STATE_SECONDS", -1.0)
    prunus.prune(checkpoint("llama"), tmp_path / "whole", **quick, **settings)
    resumed = StopAfter(99)
    stopped_and_resumed(checkpoint("llama"), tmp_path / "out", resumed=resumed, **quick, **settings)
    assert resumed.replayed == 0
    assert same(tmp_path / "out", tmp_path / "whole")


def test_an_unfinished_run_is_neither_overrun_nor_mixed(checkpoint, quick, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prunus.prune(checkpoint("llama"), out, progress=StopAfter(1), **quick)
    assert not out.exists()
    with pytest.raises(prunus.PrunusError, match=r"unfinished run is there \(0 parts done\)|\(1 parts done\)"):
        prunus.prune(checkpoint("llama"), out, **quick)
    with pytest.raises(prunus.PrunusError, match=r"planned otherwise \(.*sparsity: 0.5 then, 0.6 now"):
        prunus.prune(checkpoint("llama"), out, resume=True, sparsity=0.6, **quick)
    prunus.prune(checkpoint("llama"), out, resume=True, **quick)
    before = (out / "prunus.json").read_bytes()
    assert prunus.prune(checkpoint("llama"), out, resume=True, **quick).output == out
    assert (out / "prunus.json").read_bytes() == before
    with pytest.raises(prunus.PrunusError, match="not this run's"):
        prunus.prune(checkpoint("llama"), out, resume=True, **{**quick, "seed": 3})


def test_nothing_is_measured_for_what_is_there_already(checkpoint, quick, tmp_path, monkeypatch) -> None:
    """A finished run that is resumed, and an unfinished one that is not."""
    out, settings = tmp_path / "out", {**quick, "method": "wanda", "allocation": "owl"}
    prunus.prune(checkpoint("llama"), out, **settings)
    with pytest.raises(KeyboardInterrupt):
        prunus.prune(checkpoint("llama"), out, progress=StopAfter(1), overwrite=True, **settings)
    monkeypatch.setattr("prunus.verbs.prepare.make_profile", lambda *_: pytest.fail("surveyed"))
    with pytest.raises(prunus.PrunusError, match="unfinished run is there"):
        prunus.prune(checkpoint("llama"), out, overwrite=True, **settings)
    Journal(out).discard()
    assert prunus.prune(checkpoint("llama"), out, resume=True, **settings).output == out


def test_control_c_says_how_to_resume(checkpoint, quick, tmp_path) -> None:
    settings = {**quick, "samples": 400, "seqlen": 128, "batch_tokens": 128}
    process = subprocess.Popen(
        command(checkpoint("mixtral"), tmp_path / "out", settings),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.prunus-partial/plan.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err
    assert out == ""
