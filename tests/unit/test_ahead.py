"""Files in the background: one thread, that ends where nothing is left to do, and whose faults are told."""

from __future__ import annotations

import threading

import pytest
import torch

import prunus
from prunus.checkpoint.ahead import Background
from prunus.verbs import compare_running


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("prunus-files")]


def test_the_thread_rests_and_works_again():
    background, done = Background(), []
    assert threads() == []
    background.expect(["a"], lambda name: torch.tensor([1.0]))
    assert len(threads()) == 1
    background.later(lambda: done.append("written"))
    background.rest()
    assert threads() == []
    assert done == ["written"]
    assert background.read("a", lambda name: torch.tensor([2.0])).item() == 1.0  # what was read ahead is kept
    background.later(lambda: done.append("again"))
    background.wait()
    assert done == ["written", "again"]
    background.rest()


def test_a_fault_before_the_rest_is_raised_behind_it():
    background = Background()

    def fails() -> None:
        raise OSError("no room")

    background.later(fails)
    background.rest()
    with pytest.raises(OSError, match="no room"):
        background.wait()


def test_no_thread_is_left_behind_a_judged_model_while_others_are_timed(checkpoint, text_file, monkeypatch):
    left: list[list[str]] = []
    work = compare_running.timed
    monkeypatch.setattr("prunus.verbs.compare_running.timed", lambda *given: left.append(threads()) or work(*given))
    monkeypatch.setattr("prunus.verbs.compare_running.memory_of", lambda run: None)
    model = checkpoint("llama")
    prunus.compare(model, model, text=str(text_file), seqlen=32, windows=5, new_tokens=3, prompt_tokens=4, repeats=3)
    assert left == [[]] * 2 * (3 + 3)  # three rounds and a warm-up of each sitting
