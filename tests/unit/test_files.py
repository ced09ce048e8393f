"""Reading and writing checkpoints; what is broken is told apart."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunus.checkpoint.journal import Journal
from prunus.checkpoint.safetensors_file import SafetensorsFile, header_of, raw_bytes, write_file
from prunus.checkpoint.source import INDEX, Checkpoint
from prunus.checkpoint.writer import MirrorWriter
from prunus.core.errors import CheckpointError, OutputError

TENSORS = {
    "a": torch.randn(3, 4),
    "b": torch.randn(5).bfloat16(),
    "c": torch.zeros(0, 2),
    "d": torch.tensor(7, dtype=torch.int64),
    "e": torch.tensor([-0.0, 1.0], dtype=torch.float16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    save_file(TENSORS, place / "model.safetensors", metadata={"format": "pt"})
    return place


def test_tensors_are_read_as_the_library_reads_them(folder: Path) -> None:
    file = SafetensorsFile.open(folder / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        read = file.read(name)
        assert read.dtype == tensor.dtype
        assert read.shape == tensor.shape
        assert bytes(raw_bytes(read)) == bytes(raw_bytes(tensor))


def test_headers_are_written_as_the_library_reads_them(tmp_path: Path) -> None:
    header, length = header_of({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()})
    data = b"".join(bytes(raw_bytes(tensor)) for tensor in TENSORS.values())
    assert length == len(data)
    (tmp_path / "x.safetensors").write_bytes(header + data)
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, TENSORS[name])


def test_files_are_written_as_the_library_reads_them(tmp_path: Path) -> None:
    write_file(tmp_path / "x.safetensors", TENSORS, {"about": "this"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in found.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "about": "this"}


def test_the_mirror_is_the_source_but_for_what_was_put(folder: Path, tmp_path: Path) -> None:
    source = Checkpoint.open(folder)
    writer = MirrorWriter(source, tmp_path / "out")
    for _ in range(2):  # as after a crash
        writer.prepare()
        writer.put({"a": torch.zeros(3, 4)})
        writer.copy(["b", "c", "d", "e"])
    writer.copy_extras()
    assert (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").read_text() == "{{ messages }}"
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert not written["a"].any()
    assert all(bytes(raw_bytes(written[name])) == bytes(raw_bytes(TENSORS[name])) for name in "bcde")
    size = (folder / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == size
    assert torch.equal(writer.read("b"), TENSORS["b"])
    with pytest.raises(OutputError, match="'a' is torch.float32 .4., the source has torch.float32 .3, 4."):
        writer.put({"a": torch.zeros(4)})
    with pytest.raises(OutputError, match="'z' is not in"):
        writer.put({"z": torch.zeros(4)})


def header(**change: object) -> bytes:
    about = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}
    body = json.dumps({"a": about}).encode()
    return struct.pack("<Q", len(body)) + body + b"\0" * 8


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "cut off"),
        (b"\x80\x04pickle", "cut off"),
        (struct.pack("<Q", 1 << 60) + b"{}", "cut off"),
        (struct.pack("<Q", 4) + b"nope" + b"\0" * 8, "corrupt"),
        (struct.pack("<Q", 4) + b"[[]]" + b"\0" * 8, "corrupt"),
        (header()[:-1], "ends at byte"),
        (header(dtype="F99"), "dtype F99, which prunus cannot hold"),
        (header(shape=[3]), "does not fill 8 bytes"),
        (header(shape=[-1, -2]), "does not fill"),
        (header(data_offsets=[8, 0]), "does not fill"),
        (header(data_offsets=None), "corrupt"),
    ],
)
def test_broken_files_are_refused(data: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=fault):
        SafetensorsFile.open(tmp_path / "x.safetensors")


def test_what_is_no_checkpoint_is_told_apart(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no config.json"):
        Checkpoint.open(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickled weights .*pytorch_model.bin.*Unpickling runs code"):
        Checkpoint.open(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match="1 of 1 shards are missing .one.safetensors"):
        Checkpoint.open(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="corrupt index"):
        Checkpoint.open(folder)


def test_index_and_shards_must_agree(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    weight_map = dict.fromkeys(TENSORS, "one.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert Checkpoint.open(folder).names
    (folder / INDEX).write_text(json.dumps({"weight_map": {**weight_map, "lost": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match="1 tensors are not where it says .lost."):
        Checkpoint.open(folder)


def test_the_fingerprint_follows_the_bytes_not_the_place(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    assert Checkpoint.open(folder).fingerprint == Checkpoint.open(tmp_path / "copy").fingerprint
    save_file({**TENSORS, "a": TENSORS["a"] + 1}, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.open(folder).fingerprint != Checkpoint.open(tmp_path / "copy").fingerprint


def test_a_torn_journal_line_is_work_to_do_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out")
    assert journal.begin({"steps": 1}, "digest", resume=False) == []
    journal.output.mkdir()
    journal.mark({"block": 0})
    journal.mark({"block": 1})
    journal.close()
    with (journal.folder / "done.jsonl").open("a") as file:
        file.write('{"block": 2, "si')
    again = Journal(tmp_path / "out")
    assert again.begin({"steps": 1}, "digest", resume=True) == [{"block": 0}, {"block": 1}]
    again.mark({"block": 2})
    assert [entry["block"] for entry in again.entries()] == [0, 1, 2]
    again.close()


def test_two_processes_do_not_share_an_output(tmp_path: Path) -> None:
    first = Journal(tmp_path / "out")
    first.begin({}, "digest", resume=False)
    with pytest.raises(OutputError, match="another prunus process"):
        Journal(tmp_path / "out").begin({}, "digest", resume=True)
    first.close()


def test_a_disk_that_is_too_small_is_seen_before_any_work(folder: Path, tmp_path: Path, monkeypatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OutputError, match="GB are free"):
        MirrorWriter(Checkpoint.open(folder), tmp_path / "out").prepare()
