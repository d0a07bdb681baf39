"""Data sets: what is read, cached, cut and refused; what is easily read wrongly; augmentation."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import types
from unittest.mock import Mock

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import tiny_data
from empool import models
from empool.lab.data import load as loading
from empool.lab.data import sources
from empool.lab.data.sets import stratified
from empool.lab.errors import LabError
from empool.lab.train.batches import Augment, Normaliser, parse

GOOD = tiny_data.png(np.zeros((8, 8, 1), np.uint8))
WIDE = tiny_data.png(np.zeros((8, 9, 1), np.uint8))
CUT = tiny_data.png(tiny_data.images(1)[0][0])[:60]
LABELS = [0, 1, 2] * 4


def load(source, **options):
    return loading.load_data(models.network("cnn"), str(source), **options)


def refusal(source, **options) -> str:
    with pytest.raises(LabError) as caught:
        load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_digits_are_split_by_class():
    digits = load("digits")
    assert (digits.train.images.shape, digits.test.images.shape) == ((1442, 8, 8, 1), (355, 8, 8, 1))
    counts = torch.stack([torch.bincount(split.labels) for split in (digits.train, digits.test)])
    assert (counts[0] - 4 * counts[1]).abs().max() <= 4
    assert (digits.train.image_size, digits.train.in_channels, digits.classes) == ((8, 8), 1, tuple("0123456789"))
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)


def test_the_hubs_rows_are_read_as_files_are(tmp_path, monkeypatch):
    folder = tiny_data.parquet_folder(tmp_path / "svhn", 3)
    files = {split: sorted(map(str, folder.rglob(f"{split}-*.parquet"))) for split in ("train", "test")}
    splits = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, configuration: splits)
    ours, theirs = load("svhn"), load(folder)
    assert (ours.classes, ours.fingerprint) == (theirs.classes, theirs.fingerprint)
    assert ours.train.images.equal(theirs.train.images)
    assert ours.test.labels.equal(theirs.test.labels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [tiny_data.parquet_folder, tiny_data.class_folders])
def test_folders_hold_what_was_written(tmp_path, write, channels):
    loaded = load(write(tmp_path / "shapes", channels))
    assert (loaded.name, loaded.classes) == ("shapes", tiny_data.NAMES)
    for split, count, seed in ((loaded.train, 30, 0), (loaded.test, 9, 1)):
        pixels, labels = tiny_data.images(count, channels, seed=seed)
        if write is tiny_data.class_folders:  # in the order of the classes' names
            order = np.argsort(labels, kind="stable")
            pixels, labels = pixels[order], labels[order]
        torch.testing.assert_close(split.images, torch.from_numpy(pixels))
        torch.testing.assert_close(split.labels, torch.from_numpy(labels))
    pixels = loaded.train.images.numpy().astype(np.float64)
    assert loaded.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert loaded.std == pytest.approx(pixels.std(axis=(0, 1, 2)))
    plain = Normaliser(loaded.mean, loaded.std, "cpu").plain(loaded.train.images)
    assert plain.shape == (30, channels, 8, 8)
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(channels), rtol=0, atol=1e-5)


def test_other_kinds_of_images_are_converted_or_named(tmp_path, caplog):
    folder = tiny_data.class_folders(tmp_path, channels=3)
    path = folder / "train" / "bright" / "000.png"
    grey, _ = tiny_data.images(1, channels=1)
    path.write_bytes(tiny_data.png(grey[0]))  # among coloured ones
    torch.testing.assert_close(load(folder).train.images[0], torch.from_numpy(grey[0]).expand(8, 8, 3))
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(values).save(path)
    rounded = torch.from_numpy(np.round(values / 257).astype(np.uint8))
    torch.testing.assert_close(load(folder).train.images[0, ..., 0], rounded)
    Image.fromarray(grey[0, ..., 0]).convert("LA").save(path)
    load(folder)
    assert f"1 images are transparent, which is left out; the first is {path}" in caplog.text
    for mode in "IF":
        Image.new(mode, (8, 8), 300).save(path.with_suffix(".tif"))
        said = f"expected 8 or 16 bits a channel, got 32 in its mode {mode}; save it with 8"
        assert refusal(folder) == f"{path.with_suffix('.tif')}: cannot decode the image ({said})"


def test_the_fingerprint_is_of_the_images_wherever_they_are(tmp_path):
    folder = tiny_data.class_folders(tmp_path / "shapes")
    first = load(folder).fingerprint
    assert load(shutil.copytree(folder, tmp_path / "elsewhere" / "shapes")).fingerprint == first
    (folder / "test").rename(folder / "val")
    assert load(folder).fingerprint == first
    (folder / "train" / "dark" / "001.png").write_bytes(tiny_data.png(np.full((8, 8, 1), 7, np.uint8)))
    second = load(folder)
    assert second.fingerprint != first
    assert (second.train.images == 7).all(dim=(1, 2, 3)).sum() == 1


def test_limits_take_the_same_number_of_each_class(tmp_path):
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    chosen = [stratified(labels, limit) for limit in (9, 11, 30)]
    assert [np.bincount(labels[part]).tolist() for part in chosen] == [[3, 3, 3], [4, 4, 3], [17, 10, 3]]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2])
    assert stratified(labels, 9).tolist() == chosen[0].tolist()
    assert stratified(labels, 1000).tolist() == stratified(labels, None).tolist() == list(range(63))
    folder = tiny_data.parquet_folder(tmp_path / "shapes")
    assert refusal(folder, validation=0.99) == "validation: 0.99 of 30 training images leaves none: hold out fewer"


def parquet(folder, columns, features=None, splits=("train", "test")):
    """Write a file a split, with columns of integers beside the images, before and after them."""
    folder.mkdir()
    images = pa.array([{"bytes": tiny_data.png(pixels), "path": None} for pixels in tiny_data.images(12, 3)[0]])
    (name, first), *others = columns.items()
    table = pa.table({name: pa.array(first), "image": images, **{name: pa.array(of) for name, of in others}})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for split in splits:
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def test_the_label_is_the_column_that_says_so_or_is_asked_for(tmp_path):
    rows = list(range(12))
    kinds = {"row": "Value", "image": "Image", "kind": "ClassLabel"}
    features = {name: {"_type": kind, "names": [*"abc"]} for name, kind in kinds.items()}
    loaded = load(parquet(tmp_path / "metadata", {"row": rows, "kind": LABELS}, features))
    assert (loaded.train.labels.tolist(), loaded.classes) == (LABELS, ("a", "b", "c"))
    assert load(parquet(tmp_path / "name", {"id": rows, "label": LABELS})).train.labels.tolist() == LABELS
    for name in ("row", "id", "sample_id"):
        folder = parquet(tmp_path / name, {name: rows, "kind": LABELS})
        assert f"clearly the label: name one with --label-column, of {name}, kind" in refusal(folder)
        assert load(folder, label_column="kind").train.labels.tolist() == LABELS
        assert "no integer column absent" in refusal(folder, label_column="absent")


def test_labels_with_gaps_one_class_and_a_split_for_validation(tmp_path):
    loaded = load(parquet(tmp_path / "gaps", {"label": [label * 1000 for label in LABELS]}))
    assert loaded.classes == ("0", "1000", "2000")
    assert loaded.train.labels.tolist() == LABELS
    said = "all training images are of one class: there is nothing to tell apart"
    assert said in refusal(parquet(tmp_path / "one", {"label": [1] * 12}))
    assert len(load(parquet(tmp_path / "split", {"label": LABELS}, splits=("train", "validation"))).test) == 12


def test_images_of_a_factory_are_checked_as_those_of_a_folder_are(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    pixels, _ = tiny_data.images(12, 3)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    items = [(image, label * 1000) for image, label in zip(channels_first, LABELS, strict=True)]
    module = types.ModuleType("factory")
    monkeypatch.setitem(sys.modules, "factory", module)
    module.data = lambda: (items, items[:3])
    loaded = load("factory:data")
    assert (loaded.classes, loaded.train.labels.tolist()) == (("0", "1000", "2000"), LABELS)
    torch.testing.assert_close(loaded.train.images, torch.from_numpy(pixels))
    wide, integers = torch.zeros(3, 8, 9, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.int64)
    for wrong, said in (
        ((wide, 0), ": the image is 8x9, but --data factory:data: train image 0 is 8x8"),
        ((integers, 0), ": expected an image of eight bits, or of float tensors, got int64"),
        ((items[0][0], -1), " has label -1, expected 0 or more"),
        ((items[0][0], "cat"), ": expected an integer label, got 'cat'"),
        (([[0]], 0), ": expected an image of PIL, an array or a tensor, got list"),
        (3, " raised TypeError: "),
    ):
        module.data = lambda wrong=wrong: ([*items, wrong], items)
        assert refusal("factory:data").startswith(f"--data factory:data: train image 12{said}")


def test_what_is_no_data_set_is_named(tmp_path):
    names = "digits, cifar10, cifar10-mini, cifar100, svhn, fashion_mnist"
    kinds = "a folder of parquet files or of class folders, or package.module:factory"
    assert refusal("mnist") == f'no data set "mnist": expected one of {names}, or {kinds}'
    folder = tmp_path / "folder"
    folder.mkdir()
    assert f"{folder} is empty: expected train-*.parquet" in refusal(folder)
    (folder / "numbers.csv").write_text("1")
    said = "holds neither parquet files nor class folders, but .csv: expected train-"
    assert said in refusal(folder)
    for split, write in itertools.product(("train", "test"), (tiny_data.parquet_folder, tiny_data.class_folders)):
        folder = write(tmp_path / f"{write.__name__}-{split}")
        for path in folder.glob(f"{split}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert f"{folder} has no {split} split: expected {split}" in refusal(folder)


def test_what_does_not_fit_the_data_or_is_not_there_is_named(tmp_path, monkeypatch):
    folders = tiny_data.class_folders(tmp_path / "folders")
    assert refusal("digits", label_column="y") == "--label-column is for a folder of parquet files"
    assert refusal(folders, label_column="y") == f"--label-column is for parquet files, and {folders} holds none"
    assert refusal("digits", workers=2).startswith("--workers is for images that are loaded when their turn comes")
    monkeypatch.setenv("EMPOOL_DATA", str(tmp_path))
    assert refusal("cifar10-mini").startswith("cifar10-mini comes with the repository: clone it, or use --data cifar10")
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=OSError("offline\nfor an hour")))
    assert refusal("svhn").startswith("cannot get svhn from the hub (offline); with a copy on disk, give its folder")
    words = parquet(tmp_path / "words", {"label": [*"abc"] * 4})
    assert refusal(words).endswith("train.parquet has no column of integer labels; its columns are label, image")
    pairs = parquet(tmp_path / "pairs", {"label": LABELS})
    colour = tiny_data.png(tiny_data.images(1, 3)[0][0])
    for image, label, said in ((WIDE, 0, "differ in shape (8x8x3 and 8x9x1)"), (colour, 3, "a test image has label 3")):
        tiny_data.write_parquet(pairs / "test.parquet", [image], [label], ())
        assert said in refusal(pairs)
    tiny_data.write_parquet(pairs / "test.parquet", [], [], ())
    assert refusal(pairs) == f"{pairs}, test: expected images, got none"


def test_the_split_of_a_parquet_file_is_that_of_its_name_or_else_its_folder(tmp_path):
    for path, split in {
        "train-00000-of-00001.parquet": "train",
        "cifar_test.parquet": "test",
        "train/0000.parquet": "train",
        "cifar10-test/default/0000.parquet": "test",
        "test/train-0.parquet": "train",
        "test-and-train/train/0.parquet": "train",
        "validation-00000.parquet": "validation",
        "train/val.parquet": "val",
    }.items():
        assert sources._split(tmp_path / path, tmp_path) == split, path
    folder = tiny_data.parquet_folder(tmp_path / "a")
    (folder / "train").mkdir()
    file = folder / "train-00000-of-00002.parquet"
    shutil.copy(file, folder / "train" / "validation.parquet")  # left out
    assert len(load(folder).train) == 30
    for name in ("train-test.parquet", "part-3.parquet"):
        shutil.copy(file, folder / name)
        assert refusal(folder).startswith(f"{folder / name} is of no one split by its name: name it train-*.parquet")
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("contents", "labels", "names", "problem"),
    [
        ([GOOD], [0], ("dark", "bright", "left"), " (dark, bright, left) name different classes: give files of one"),
        ([GOOD, GOOD], [0, 3], (), ": row 1 has label 3, expected 0 to 2"),
        ([GOOD, GOOD], [0, -1], tiny_data.NAMES, ": row 1 has label -1, expected 0 to 2"),
        ([GOOD, GOOD], [0, None], tiny_data.NAMES, ": row 1: expected an integer label, got None"),
        ([GOOD, b"no image at all"], [0, 1], (), ": row 1: cannot decode the image (unknown image format)"),
        ([GOOD, CUT], [0, 1], (), ": row 1: cannot decode the image ("),
        ([GOOD, None], [0, 1], (), ": row 1: expected an image of PIL, an array or a tensor, got NoneType"),
    ],
    ids=("classes", "beyond", "negative", "unlabelled", "text", "truncated", "absent"),
)
def test_what_is_wrong_in_a_parquet_file_is_named_by_row(tmp_path, contents, labels, names, problem):
    folder = tiny_data.parquet_folder(tmp_path, channels=1)
    path = folder / "train-00001-of-00002.parquet"
    tiny_data.write_parquet(path, contents, labels, names)
    assert f"{path}{problem}" in refusal(folder)
    content = path.read_bytes()
    for share in (0.99, 0.0):
        path.write_bytes(content[: int(len(content) * share)])
        assert refusal(tmp_path).startswith(f"{path} is damaged or no parquet file (")


@pytest.mark.parametrize(
    ("name", "content", "named", "problem"),
    [
        ("test/dark/001.png", CUT, "test/dark/001.png", ": cannot decode the image ("),
        ("train/dark/notes.txt", b"", "train/dark/notes.txt", " is no image: expected files alone, each one of .bmp"),
        ("train/dark/more/1.png", GOOD, "train/dark/more", " is no image: expected files alone"),
        ("train/round/.hidden", b"", "train/round", " is empty: expected images"),
        ("test/round/1.png", GOOD, "test/round", ": no class of that name in"),
        ("test/1.png", GOOD, "test/1.png", " is in no class: expected test/CLASS/IMAGE"),
        ("train/dark/999.png", WIDE, "train/dark/999.png", ": the image is 8x9, but {} is 8x8; make them one size"),
    ],
    ids=["truncated", "other", "nested", "empty", "class", "outside", "size"],
)
def test_what_is_wrong_in_a_class_folder_is_named(tmp_path, name, content, named, problem):
    folder = tiny_data.class_folders(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / named}{problem}".format(folder / "train" / "bright" / "000.png"))


def test_spellings_of_augmentation():
    for spelling, augment in {
        "none": Augment(),
        "crop:12,mirror": Augment(12, mirror=True),
        "shift:2,alternating-mirror": Augment(2, mirror=True, reflect=True, alternating=True),
    }.items():
        assert parse(spelling) == augment
    for spelling in ("", "crop", "crop:0", "crop:-1", "crop:4mirror", ",mirror", "flip", "crop:4,"):
        with pytest.raises(ValueError, match=f'expected none, crop:P, mirror or crop:P,mirror, got "{spelling}"'):
            parse(spelling)


def test_augmented_images_are_those_of_a_naive_loop():
    pixels, _ = tiny_data.images(6, channels=3)
    pixels = pixels[:, :, :6]  # (6, 8, 6, 3): height and width differ
    mean, std = (100.0, 90.0, 80.0), (60.0, 50.0, 40.0)
    index = torch.tensor([5, 0, 0, 3, 2, 1, 4, 0])
    shift, mirrored = Augment(pad=2, mirror=True).drawn(len(index), torch.Generator().manual_seed(0))
    normaliser = Normaliser(mean, std, "cpu")
    got = normaliser.augmented(torch.from_numpy(pixels), index, shift, mirrored)

    expected = torch.zeros(8, 3, 8, 6)
    for n in range(8):
        image = (torch.from_numpy(pixels[index[n]]).float() - torch.tensor(mean)) / torch.tensor(std)
        padded = torch.nn.functional.pad(image.permute(2, 0, 1), (2, 2, 2, 2))
        down, right = (shift[n] + 2).tolist()
        crop = padded[:, down : down + 8, right : right + 6]
        expected[n] = crop.flip(2) if mirrored[n] else crop
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)
    none = Augment().drawn(6, torch.Generator().manual_seed(0))
    unchanged = normaliser.augmented(torch.from_numpy(pixels), torch.arange(6), *none)
    torch.testing.assert_close(unchanged, normaliser.plain(torch.from_numpy(pixels)), rtol=0, atol=0)


def test_draws_cover_every_shift_and_mirror_half():
    shift, mirrored = Augment(pad=1, mirror=True).drawn(9000, torch.Generator().manual_seed(0))
    cells = torch.bincount((shift[:, 0] + 1) * 3 + shift[:, 1] + 1, minlength=9)
    assert ((cells - 1000.0) ** 2 / 1000).sum() < 26.1  # the 0.999 quantile of chi-square with 8 degrees of freedom
    assert abs(int(mirrored.sum()) - 4500) < 156  # 3.3 standard deviations
