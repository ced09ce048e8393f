"""What networks are trained on: every kind of source from small files, batches that follow from their seed, faults told."""

from __future__ import annotations

import gzip
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prunus.core.errors import DataError, MissingLibraryError
from prunus.samples.augment import cropped, flipped
from prunus.samples.batches import InOrder, Shuffled
from prunus.samples.examples import Held, Samples, stratified
from prunus.samples.source import source, source_of
from prunus.samples.text import byte_pairs

CPU = torch.device("cpu")


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_folder(folder: Path, packed: bool = False) -> Path:
    """Five training images and three to test, of 4×4 pixels."""
    chance = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for prefix, count in (("train", 5), ("t10k", 3)):
        for name, array in ((f"{prefix}-images-idx3-ubyte", chance.integers(0, 256, (count, 4, 4))),
                            (f"{prefix}-labels-idx1-ubyte", np.arange(count))):  # fmt: skip
            content = idx(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def test_idx_files_packed_or_not(tmp_path: Path) -> None:
    plain, packed = (source_of(f"mnist:{idx_folder(tmp_path / str(p), p)}").open() for p in (False, True))
    assert plain.digest() == packed.digest()
    assert (len(plain.train), len(plain.test), plain.classes) == (5, 3, 10)
    images, labels = plain.train.take(torch.arange(5))
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert images.shape == (5, 1, 4, 4)
    whole = plain.normalised(images)
    assert float(whole.mean()) == pytest.approx(0, abs=1e-6)
    assert float(whole.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert plain.given() == {"channels": 1, "size": 4, "classes": 10}


def test_folders_are_looked_for_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_folder(tmp_path / "mnist")
    monkeypatch.setenv("PRUNUS_DATA", str(tmp_path))
    assert len(source_of("mnist").open().train) == 5
    monkeypatch.delenv("PRUNUS_DATA")
    with pytest.raises(DataError, match="no folder was given and none is in the usual places .PRUNUS_DATA is not set"):
        source_of("mnist").open()
    monkeypatch.setattr("prunus.samples.idx._DEBIAN", tmp_path / "mnist")
    assert source_of("fashion-mnist").open().name == "fashion-mnist"
    with pytest.raises(DataError, match="no such folder"):
        source_of(f"fashion-mnist:{tmp_path / 'none'}").open()


IDX_FAULTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "magic": ("begins with 00000801, an idx file of this kind with 00000803", lambda old: b"\0\0\x08\x01" + old[4:]),
    "truncated": ("holds 79 bytes, its header says 5×4×4", lambda old: old[:-1]),
    "header": ("ends within its header", lambda old: old[:9]),
    "empty": ("begins with nothing", lambda old: b""),
}


@pytest.mark.parametrize("fault", IDX_FAULTS)
def test_damaged_idx_files(fault: str, tmp_path: Path) -> None:
    says, spoil = IDX_FAULTS[fault]
    path = idx_folder(tmp_path / "m") / "train-images-idx3-ubyte"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=says):
        source_of(f"mnist:{path.parent}").open()


def test_idx_files_that_do_not_fit(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "m", packed=True)
    labels = folder / "train-labels-idx1-ubyte.gz"
    for content, says in (
        (gzip.compress(idx(np.array([0, 1, 2, 3, 11]))), "labels go from 0 to 11; wanted are whole numbers from 0 to 9"),
        (gzip.compress(idx(np.arange(4))), "4 labels for 5 images"),
        (gzip.compress(idx(np.arange(5)))[:-5], "cannot be read"),
        (b"no gzip", "cannot be read"),
    ):
        labels.write_bytes(content)
        with pytest.raises(DataError, match=says):
            source_of(f"mnist:{folder}").open()
    labels.unlink()
    with pytest.raises(DataError, match="neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz is there"):
        source_of(f"mnist:{folder}").open()


def test_cifar_in_its_binary_version(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    chance = np.random.default_rng(1)
    records = chance.integers(0, 256, (6, 3073), dtype=np.uint8)
    records[:, 0] = [3, 1, 9, 0, 2, 5]
    (folder / "data_batch_1.bin").write_bytes(records[:2].tobytes())
    (folder / "data_batch_2.bin").write_bytes(records[2:4].tobytes())
    (folder / "test_batch.bin").write_bytes(records[4:].tobytes())
    samples = source_of(f"cifar10:{tmp_path}").open()
    images, labels = samples.train.take(torch.arange(4))
    assert labels.tolist() == [3, 1, 9, 0]
    assert images[2, 1, 0, 5] == records[2, 1 + 1024 + 5]
    for name, content, says in (
        ("test_batch.bin", records[4:].tobytes()[:-1], "6,145 bytes are no whole number of images of 3073"),
        ("data_batch_2.bin", bytes([10]) + records[2:4].tobytes()[1:], "labels go from 0 to 10|labels go from 10"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=says):
            source_of(f"cifar10:{tmp_path}").open()
        (folder / name).write_bytes(before)
    (folder / "test_batch.bin").unlink()
    (folder / "data_batch_1").touch()
    with pytest.raises(DataError, match=r"no test_batch.bin is there. The pickled version is there, and"):
        source_of(f"cifar10:{tmp_path}").open()


def npz_file(folder: Path, **changed: np.ndarray) -> Path:
    chance = np.random.default_rng(2)
    arrays = {"X": chance.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8), "y": np.repeat(np.arange(3), 10)}
    np.savez(folder / "some.npz", **{**arrays, **changed})
    return folder / "some.npz"


def test_one_numpy_file_is_split_alike_in_every_class(tmp_path: Path) -> None:
    path = npz_file(tmp_path)
    one, two, other = (source_of(f"npz:{path},test_share=0.3,seed={seed}").open() for seed in (0, 0, 1))
    assert one.digest() == two.digest() != other.digest()
    assert one.test.take(torch.arange(9))[1].bincount().tolist() == [3, 3, 3]
    assert one.train.take(torch.arange(21))[1].bincount().tolist() == [7, 7, 7]
    seen = torch.cat([one.train.take(torch.arange(21))[0], one.test.take(torch.arange(9))[0]])
    assert len(seen.flatten(1).unique(dim=0)) == 30, "an image is in both, or in neither"
    assert one.given() == {"channels": 3, "size": 4, "classes": 3}


def test_numpy_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    for changed, says in (
        ({"X": np.zeros((30, 4, 4, 3), dtype=np.float32)}, "'X' is float32 .30, 4, 4, 3.; wanted is uint8"),
        ({"X": np.zeros((30, 4, 4, 2), dtype=np.uint8)}, "C 1 or 3"),
        ({"y": np.zeros(30)}, "'y' is float64 .30.; wanted are 30 whole numbers"),
        ({"y": np.zeros(29, dtype=np.int64)}, "'y' is int64 .29."),
        ({"y": np.repeat(np.arange(3), 10) - 1}, "labels go from -1 to 1; wanted are whole numbers from 0 upwards"),
        ({"y": np.arange(30)}, "class 0 has 1 examples, of which a test share of 0.2 takes 0"),
        ({"y": np.array([None] * 30)}, "cannot be read as a .npz file"),
    ):
        with pytest.raises(DataError, match=says):
            source_of(f"npz:{npz_file(tmp_path, **changed)}").open()
    path = npz_file(tmp_path)
    with pytest.raises(DataError, match="pictures"):
        source_of(f"npz:{path},images=pictures").open()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read as a .npz file"):
        source_of(f"npz:{path}").open()


def picture_folder(folder: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    from PIL import Image

    for split in splits:
        for label, name in enumerate(("cat", "dog")):
            place = folder / split / name
            place.mkdir(parents=True)
            for k in range(4):
                pixels = np.full((10 + k, 14, 3), 100 * label + k, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{k}.png")
    return folder


def test_folders_of_pictures(tmp_path: Path) -> None:
    samples = source_of(f"images:{picture_folder(tmp_path / 'a')},size=8").open()
    assert (len(samples.train), len(samples.test), samples.classes) == (8, 8, 2)
    images, labels = samples.train.take(torch.tensor([1, 6]))
    assert labels.tolist() == [0, 1]
    assert images.shape == (2, 3, 8, 8)
    assert images[0].unique().tolist() == [1]
    assert images[1].unique().tolist() == [102]
    split = source_of(f"images:{picture_folder(tmp_path / 'b', ('',))},size=8,test_share=0.25,grey=true").open()
    assert (len(split.train), len(split.test)) == (6, 2)
    assert split.given() == {"channels": 1, "size": 8, "classes": 2}
    broken = tmp_path / "a" / "train" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(DataError, match=r"0.png: cannot be read as a picture"):
        source_of(f"images:{tmp_path / 'a'},size=8").open()
    (tmp_path / "a" / "val" / "emu").mkdir()
    (tmp_path / "a" / "val" / "emu" / "0.png").touch()
    with pytest.raises(DataError, match="train and val have other classes .emu"):
        source_of(f"images:{tmp_path / 'a'}").open()
    (tmp_path / "c" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match="this class has no pictures"):
        source_of(f"images:{tmp_path / 'c'}").open()


def test_datasets_of_hugging_face(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    folder = picture_folder(tmp_path / "a")
    paths = sorted(folder.glob("train/*/*.png"))
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    rows = {"image": list(map(str, paths)), "label": [int(path.parent.name == "dog") for path in paths]}
    made = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "both"))
    both = source_of(f"datasets:{tmp_path / 'both'},size=8").open()
    assert (len(both.train), len(both.test), both.classes) == (8, 8, 2)
    assert both.train.take(torch.tensor([5]))[0].unique().tolist() == [101]
    made.save_to_disk(str(tmp_path / "one"))
    one = source_of(f"datasets:{tmp_path / 'one'},size=8,test_share=0.25").open()
    assert (len(one.train), len(one.test)) == (6, 2)
    Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(DataError, match="of its columns text, label none holds pictures"):
        source_of(f"datasets:{tmp_path / 'text'}").open()
    Dataset.from_dict({"image": rows["image"][:1]}, features=Features({"image": Image()})).save_to_disk(str(tmp_path / "n"))
    with pytest.raises(DataError, match="none is one of label, labels"):
        source_of(f"datasets:{tmp_path / 'n'}").open()
    wild = Features({"image": Image(), "label": Value("int64")})
    Dataset.from_dict({**rows, "label": [-1] * 8}, features=wild).save_to_disk(str(tmp_path / "w"))
    with pytest.raises(DataError, match="labels go from -1"):
        source_of(f"datasets:{tmp_path / 'w'},size=8").open()
    with pytest.raises(DataError, match="datasets no/such: cannot be loaded"):
        source_of("datasets:no/such").open()


def test_datasets_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.samples.vision.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="pip install torchvision"):
        source_of("torchvision:Small").open()

    class Small:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            if root == "empty":
                raise RuntimeError("Dataset not found")
            self.data = np.full((6 if train else 2, 5, 5, 3), 7, dtype=np.uint8)
            self.targets = [0, 1] * (3 if train else 1)

    class Odd(Small):
        def __init__(self, **options: object) -> None:
            pass

    datasets = types.SimpleNamespace(Small=Small, Odd=Odd, __all__=["Small", "Odd"])
    monkeypatch.setattr("prunus.samples.vision.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=datasets))
    samples = source_of("torchvision:Small").open()
    assert (len(samples.train), len(samples.test)) == (6, 2)
    assert samples.given() == {"channels": 3, "size": 5, "classes": 2}
    for wrong, says in (
        ("torchvision:Smal", "no dataset 'Smal' .did you mean 'Small'"),
        ("torchvision:Odd", "does not hold its images in one array"),
        ("torchvision:Small,root=empty", "cannot be opened in empty"),
    ):
        with pytest.raises(DataError, match=says):
            source_of(wrong).open()


def test_text_as_windows_of_its_own_tokens(text_file: Path) -> None:
    from tokenizers import Tokenizer

    spec = f"text:{text_file},seqlen=32,vocabulary=300"
    samples, again = source_of(spec).open(), source_of(spec).open()
    assert samples.digest() == again.digest()
    assert samples.tokenizer == again.tokenizer
    windows, answers = samples.train.take(torch.tensor([0]))
    assert torch.equal(windows, answers)
    assert samples.is_text
    assert samples.given() == {"vocabulary": 300, "positions": 32}
    told = Tokenizer.from_str(samples.tokenizer).decode(windows[0].tolist())
    assert text_file.read_text(encoding="utf-8").startswith(told)
    both = source_of(f"text:{text_file},held_out={text_file},seqlen=32,vocabulary=300").open()
    assert torch.equal(both.train.inputs, both.test.inputs)
    with pytest.raises(DataError, match="gives .* entries of a vocabulary, not 4096: it is too short"):
        byte_pairs("short", 4096)


def test_digits_that_scikit_learn_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = source_of("digits").open()
    assert len(samples.train) + len(samples.test) == 1797
    assert samples.given() == {"channels": 1, "size": 8, "classes": 10}
    monkeypatch.setattr("prunus.samples.digits.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="pip install scikit-learn"):
        source_of("digits").open()


def test_splits_that_do_not_go_together() -> None:
    one, two = (Held(torch.zeros(2, 1, k, k, dtype=torch.uint8), torch.zeros(2).long()) for k in (4, 5))
    with pytest.raises(DataError, match="training images are .1, 4, 4. .C H W., test images .1, 5, 5."):
        Samples.of_images("odd", one, two, 2)
    with pytest.raises(DataError, match="it has no test images"):
        Samples.of_images("odd", one, Held(one.inputs[:0], one.answers[:0]), 2)


def test_kinds_and_their_options_by_name() -> None:
    for wrong, says in (
        ("fashion-minst", "unknown data 'fashion-minst' .did you mean 'fashion-mnist'"),
        ("npz", "it needs a path"),
        ("npz:x.npz,test_shore=0.1", "no option 'test_shore' .did you mean 'test_share'"),
        ("npz:x.npz,test_share=1", "must be between 0 and 1"),
        ("datasets", "it needs an id"),
        ("torchvision", "it needs a name"),
        ("images:size=0", "must be at least 1"),
        ("text:seqlen=1", "at least 2"),
    ):
        with pytest.raises(ValueError, match=says):
            source_of(wrong)
    for entry in source.entries().values():
        assert entry.summary.endswith(".")
        assert all(entry.explained.values()), entry.name


def test_augmentation_moves_and_mirrors() -> None:
    """Every image is a window of its framed self, all windows turn up, and half are mirrored."""
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).repeat(400, 2, 1, 1)
    out = cropped(images, 1, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(images[:1], (1, 1, 1, 1))
    windows = torch.stack([framed[0, :, y : y + 4, x : x + 4] for y in range(3) for x in range(3)])
    which = (out.unsqueeze(1) == windows).flatten(2).all(2)
    assert (which.sum(1) == 1).all()
    assert which.any(0).all()
    turned = flipped(images, torch.Generator().manual_seed(0))
    mirrored = (turned == images.flip(3)).flatten(1).all(1)
    assert ((turned == images).flatten(1).all(1) ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def samples_of(count: int) -> Samples:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 4, 4)
    held = Held(images.contiguous(), torch.arange(count))
    return Samples.of_images("few", held, held, count)


def test_an_epoch_follows_from_its_seed_and_number() -> None:
    samples = samples_of(10)
    shuffled = Shuffled(samples, 4, CPU, seed=3, crop=1, flip=True)
    one, again, later = ([inputs for inputs, _ in shuffled.epoch(number)] for number in (5, 5, 6))
    assert all(map(torch.equal, one, again))
    assert not torch.equal(torch.cat(one), torch.cat(later))
    answers = torch.cat([labels for _, labels in shuffled.epoch(5)])
    assert sorted(answers.tolist()) == list(range(10))
    assert len(one) == len(shuffled) == 3


def test_a_last_batch_of_one_is_left_out_and_judging_sees_all() -> None:
    samples = samples_of(9)
    assert [len(labels) for _, labels in Shuffled(samples, 4, CPU).epoch(0)] == [4, 4]
    loader = InOrder(samples, samples.test, 4, CPU)
    assert torch.cat([labels for _, labels in loader]).tolist() == list(range(9))
    assert len(list(loader)) == len(loader) == 3, "it can be gone through again"
    some = [torch.cat([labels for _, labels in InOrder.some(samples, 5, 4, CPU, seed)]) for seed in (0, 0, 1)]
    assert torch.equal(some[0], some[1])
    assert not torch.equal(some[0], some[2])
    assert len(some[0].unique()) == 5


def test_shares_of_every_class() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20)
    train, test = stratified(labels, 0.25, 0, "here")
    assert labels[test].bincount().tolist() == [2, 5]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(30))


def test_pictures_of_16_bits_are_no_white_squares(tmp_path: Path) -> None:
    from PIL import Image

    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.fromarray(deep).save(tmp_path / name / f"{k}.png")
    found = source_of(f"images:{tmp_path},size=8,grey=true").open()
    assert torch.equal(found.train.take(torch.tensor([0]))[0][0, 0], torch.from_numpy((deep >> 8).astype(np.uint8)))
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(deep.astype(np.int32)).save(path.with_suffix(".tif"))
        path.unlink()
    with pytest.raises(DataError, match=r"tif: cannot be read as a picture .its pixels have 32 bits"):
        source_of(f"images:{tmp_path},size=8,grey=true").open()


def test_labels_and_shapes_that_are_none(tmp_path: Path) -> None:
    images = np.zeros((10, 8, 8), np.uint8)
    for labels, told in ((np.zeros(10, int), "labels, 0 to 0, are those of 1 classes"),
                         (np.array([0, 1] * 4 + [0, 10**12]), "are those of 1,000,000,000,001 classes")):  # fmt: skip
        np.savez(tmp_path / "odd.npz", X=images, y=labels)
        with pytest.raises(DataError, match=told):
            source_of(f"npz:{tmp_path / 'odd.npz'}").open()
    np.savez(tmp_path / "empty.npz", X=images[:, :0, :0], y=np.arange(10) % 2)
    with pytest.raises(DataError, match="without a pixel"):
        source_of(f"npz:{tmp_path / 'empty.npz'}").open()
    with pytest.raises(DataError, match="seed 99999999999999999999 must be"):
        source_of("digits:seed=99999999999999999999").open()
