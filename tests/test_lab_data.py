"""Data sets: what is read, what is cached, what is cut, what is refused; and augmentation."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_data
from empool.lab.data import sets as data
from empool.lab.data import sources
from empool.lab.errors import LabError
from empool.lab.train import augment
from empool.lab.train.augment import Augment, Draws, Normaliser


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refusal(folder) -> str:
    with pytest.raises(LabError) as caught:
        data.load(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_digits_are_split_by_class():
    digits = data.load("digits")
    assert digits.train.images.shape == (1442, 8, 8, 1)
    assert digits.test.images.shape == (355, 8, 8, 1)
    counts = torch.stack([torch.bincount(split.labels) for split in (digits.train, digits.test)])
    assert (counts[0] - 4 * counts[1]).abs().max() <= 4
    assert (digits.image_size, digits.in_channels, digits.classes) == ((8, 8), 1, tuple("0123456789"))
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [tiny_data.parquet_folder, tiny_data.class_folders])
def test_folders_hold_what_was_written(tmp_path, write, channels):
    loaded = data.load(str(write(tmp_path / "shapes", channels)))
    assert (loaded.name, loaded.classes) == ("shapes", tiny_data.NAMES)
    for split, count, seed in ((loaded.train, 30, 0), (loaded.test, 9, 1)):
        pixels, labels = tiny_data.images(count, channels, seed=seed)
        if write is tiny_data.class_folders:  # in the order of the classes' names
            order = np.argsort(labels, kind="stable")
            pixels, labels = pixels[order], labels[order]
        torch.testing.assert_close(split.images, torch.from_numpy(pixels))
        torch.testing.assert_close(split.labels, torch.from_numpy(labels))


def test_grey_images_among_coloured_ones_become_coloured(tmp_path):
    folder = tiny_data.class_folders(tmp_path / "mixed", channels=3)
    grey, _ = tiny_data.images(1, channels=1)
    (folder / "train" / "bright" / "000.png").write_bytes(tiny_data.png(grey[0]))
    loaded = data.load(str(folder))
    torch.testing.assert_close(loaded.train.images[0], torch.from_numpy(grey[0]).expand(8, 8, 3))


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path):
    loaded = data.load(str(tiny_data.parquet_folder(tmp_path / "shapes")), train_limit=9)
    pixels = loaded.train.images.numpy().astype(np.float64)
    assert loaded.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert loaded.std == pytest.approx(pixels.std(axis=(0, 1, 2)))
    plain = Normaliser(loaded.mean, loaded.std, "cpu").plain(loaded.train.images)
    assert plain.shape == (9, 3, 8, 8)
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.std((0, 2, 3), correction=0), torch.ones(3))


def test_second_load_reads_the_cache_and_needs_no_decoding(tmp_path, monkeypatch):
    folder = tiny_data.parquet_folder(tmp_path / "shapes")
    first = data.load(str(folder))
    monkeypatch.setattr(sources, "decode", lambda source: pytest.fail("decoded again"))
    moved = tmp_path / "elsewhere" / "shapes"
    shutil.copytree(folder, moved)
    for again in (data.load(str(folder)), data.load(str(moved))):
        torch.testing.assert_close(again.train.images, first.train.images)
        torch.testing.assert_close(again.test.labels, first.test.labels)
        assert (again.classes, again.fingerprint) == (first.classes, first.fingerprint)


def test_changed_file_is_decoded_again(tmp_path):
    folder = tiny_data.class_folders(tmp_path / "shapes")
    first = data.load(str(folder))
    (folder / "train" / "dark" / "001.png").write_bytes(tiny_data.png(np.full((8, 8, 1), 7, np.uint8)))
    second = data.load(str(folder))
    assert second.fingerprint != first.fingerprint
    assert (second.train.images == 7).all(dim=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99), (10, 8)], ids=["encrypted", "unknown", "deflated"])
def test_a_cache_of_which_the_directory_is_damaged_is_rebuilt(tmp_path, offset, value, caplog):
    folder = str(tiny_data.parquet_folder(tmp_path / "shapes"))
    data.load(folder)
    (cached,) = data.cache_folder().glob("*.npz")
    content = bytearray(cached.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    cached.write_bytes(content)
    caplog.set_level("INFO")
    assert len(data.load(folder).train) == 30
    assert f"{cached} is damaged" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_damaged_cache_is_said_and_rebuilt(tmp_path, damage, caplog):
    folder = str(tiny_data.parquet_folder(tmp_path / "shapes"))
    first = data.load(folder)
    (cached,) = data.cache_folder().glob("*.npz")
    content = bytearray(cached.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    cached.write_bytes(content if damage == "flipped" else content[: len(content) // 2 if damage == "truncated" else 0])
    caplog.set_level("INFO")
    again = data.load(folder)
    assert f"{cached} is damaged" in caplog.text
    torch.testing.assert_close(again.train.images, first.train.images)
    caplog.clear()
    data.load(folder)
    assert caplog.text == ""


def test_unwritable_cache_is_said_and_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    caplog.set_level("INFO")
    loaded = data.load(str(tiny_data.parquet_folder(tmp_path / "shapes")))
    assert len(loaded.train) == 30
    assert "cannot keep the decoded images" in caplog.text


def test_limits_take_the_same_number_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    nine = data.stratified(labels, 9)
    assert np.bincount(labels[nine]).tolist() == [3, 3, 3]
    eleven = data.stratified(labels, 11)
    assert np.bincount(labels[eleven]).tolist() == [4, 4, 3]
    thirty = data.stratified(labels, 30)
    assert np.bincount(labels[thirty]).tolist() == [17, 10, 3]
    assert set(nine) < set(eleven) < set(thirty)
    assert data.stratified(labels, 9).tolist() == nine.tolist()
    assert data.stratified(labels, 1000).tolist() == list(range(63))


def test_limit_below_one_is_refused(tmp_path):
    with pytest.raises(LabError, match="a limit on the number of images must be at least 1, got 0"):
        data.load(str(tiny_data.parquet_folder(tmp_path / "shapes")), test_limit=0)


def test_unknown_name_lists_the_known_ones():
    assert refusal("mnist") == (
        'no data set "mnist": expected one of digits, cifar10, cifar10-mini, cifar100, svhn, fashion_mnist, or a folder'
    )


def test_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "x").write_text("")
    assert (
        refusal(tmp_path / "x") == f"{tmp_path / 'x'} is a file: expected a folder of parquet files or of class folders"
    )


def test_empty_folder(tmp_path):
    assert f"{tmp_path} is empty: expected train-*.parquet" in refusal(tmp_path)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "cat.png").write_bytes(tiny_data.png(np.zeros((8, 8, 1), np.uint8)))
    assert "holds neither parquet files nor class folders" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("write", [tiny_data.parquet_folder, tiny_data.class_folders])
def test_missing_split(tmp_path, write, split):
    folder = write(tmp_path)
    for path in folder.glob(f"{split}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"{folder} has no {split} split: expected {split}" in refusal(folder)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("cifar_test.parquet", "test"),
        ("train/0000.parquet", "train"),
        ("cifar10-test/default/0000.parquet", "test"),
        ("test/train-0.parquet", "train"),
        ("test-and-train/train/0.parquet", "train"),
        ("validation-00000.parquet", "validation"),
        ("train/val.parquet", "val"),
    ],
)
def test_the_split_of_a_parquet_file_is_that_of_its_name_or_else_its_folder(tmp_path, path, split):
    assert sources._split(tmp_path / path, tmp_path) == split


def test_parquet_files_of_a_validation_split_are_left_out(tmp_path):
    folder = tiny_data.parquet_folder(tmp_path)
    (folder / "train").mkdir()
    shutil.copy(folder / "train-00000-of-00002.parquet", folder / "train" / "validation.parquet")
    assert len(data.load(str(folder)).train) == 30


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("train-test.parquet", "is of two splits by its name, train and test: name it for one of them"),
        ("part-3.parquet", "is of no split by its name: expected train-*.parquet or test-*.parquet; or move it away"),
    ],
)
def test_a_parquet_file_of_no_one_split_is_named(tmp_path, name, problem):
    folder = tiny_data.parquet_folder(tmp_path)
    shutil.copy(folder / "train-00000-of-00002.parquet", folder / name)
    assert refusal(folder) == f"{folder / name} {problem}"


def test_parquet_files_of_other_classes_are_named(tmp_path):
    folder = tiny_data.parquet_folder(tmp_path, channels=1)
    path, good = folder / "test-00000-of-00001.parquet", tiny_data.png(np.zeros((8, 8, 1), np.uint8))
    tiny_data.write_parquet(path, [good], [0], ("dark", "bright", "left"))
    assert refusal(folder) == (
        f"{path} names other classes than {folder / 'train-00000-of-00002.parquet'} (dark, bright, left, not bright, "
        "dark, left): give files of one data set"
    )


def test_a_label_beyond_the_names_of_the_other_files_is_named(tmp_path):
    folder = tiny_data.parquet_folder(tmp_path, channels=1)
    path, good = folder / "train-00001-of-00002.parquet", tiny_data.png(np.zeros((8, 8, 1), np.uint8))
    tiny_data.write_parquet(path, [good, good], [0, 3], ())
    assert refusal(folder) == f"{path}: row 1 has label 3, expected 0 to 2"


def test_grey_images_of_16_bits_are_scaled(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(values).save(folder / "train" / "bright" / "000.png")
    loaded = data.load(str(folder))
    torch.testing.assert_close(
        loaded.train.images[0, :, :, 0], torch.from_numpy(np.round(values / 257).astype(np.uint8))
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_32_bits_are_named(tmp_path, mode):
    folder = tiny_data.class_folders(tmp_path)
    path = folder / "train" / "bright" / "000.tif"
    Image.new(mode, (8, 8), 300).save(path)
    assert refusal(folder) == (
        f"{path}: cannot decode the image (expected 8 or 16 bits a channel, got 32 in its mode {mode}; save it with 8)"
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_parquet_file_is_named(tmp_path, share):
    folder = tiny_data.parquet_folder(tmp_path)
    path = folder / "train-00001-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(folder).startswith(f"{path} is damaged or no parquet file (")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image at all", "cannot decode the image (unknown image format)"),
        (tiny_data.png(tiny_data.images(1)[0][0])[:60], "cannot decode the image ("),
        (None, "no image"),
    ],
    ids=["text", "truncated", "absent"],
)
def test_undecodable_image_in_a_parquet_file_is_named_by_row(tmp_path, content, reason):
    folder = tiny_data.parquet_folder(tmp_path, channels=1)
    path = folder / "test-00000-of-00001.parquet"
    good = tiny_data.png(np.zeros((8, 8, 1), np.uint8))
    tiny_data.write_parquet(path, [good, good, content], [0, 1, 2])
    assert refusal(folder).startswith(f"{path}: row 2: {reason}")


def test_undecodable_image_in_a_class_folder_is_named(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    path = folder / "test" / "dark" / "001.png"
    path.write_bytes(path.read_bytes()[:40])
    assert refusal(folder).startswith(f"{path}: cannot decode the image (")


def test_other_file_in_a_class_folder_is_named(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    (folder / "train" / "dark" / "notes.txt").write_text("")
    assert refusal(folder).startswith(f"{folder / 'train' / 'dark' / 'notes.txt'} is no image: expected one of .bmp")


def test_empty_class_folder_is_named(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    (folder / "train" / "round").mkdir()
    assert refusal(folder) == f"{folder / 'train' / 'round'} is empty: expected images"


def test_class_without_training_images_is_named(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    (folder / "test" / "round").mkdir()
    assert refusal(folder).startswith(f"{folder / 'test' / 'round'}: no class of that name in")


@pytest.mark.parametrize(
    ("label", "problem"),
    [(3, "has label 3, expected 0 to 2"), (-1, "has label -1, expected 0 to 2"), (None, "has no label")],
)
def test_label_out_of_range_is_named_by_row(tmp_path, label, problem):
    folder = tiny_data.parquet_folder(tmp_path, channels=1)
    path = folder / "train-00000-of-00002.parquet"
    good = tiny_data.png(np.zeros((8, 8, 1), np.uint8))
    tiny_data.write_parquet(path, [good, good], [0, label])
    assert refusal(folder) == f"{path}: row 1 {problem}"


def test_images_of_two_sizes_are_named(tmp_path):
    folder = tiny_data.class_folders(tmp_path)
    path = folder / "train" / "dark" / "999.png"
    path.write_bytes(tiny_data.png(np.zeros((8, 9, 1), np.uint8)))
    assert refusal(folder) == (
        f"{path}: the image is 8x9, but {folder / 'train' / 'bright' / '000.png'} is 8x8; make them one size"
    )


@pytest.mark.parametrize("spelling", ["none", "crop:4", "mirror", "crop:12,mirror"])
def test_augment_spelling_is_read_back(spelling):
    assert str(augment.parse(spelling)) == spelling


@pytest.mark.parametrize("spelling", ["", "crop", "crop:0", "crop:-1", "crop:4mirror", ",mirror", "flip", "crop:4,"])
def test_augment_refuses(spelling):
    with pytest.raises(ValueError, match=f'expected none, crop:P, mirror or crop:P,mirror, got "{spelling}"'):
        augment.parse(spelling)


def test_augmented_images_are_those_of_a_naive_loop():
    pixels, _ = tiny_data.images(6, channels=3)
    pixels = pixels[:, :, :6]  # (6, 8, 6, 3): height and width differ
    mean, std = (100.0, 90.0, 80.0), (60.0, 50.0, 40.0)
    index = torch.tensor([5, 0, 0, 3, 2, 1, 4, 0])
    draws = Draws.sample(Augment(pad=2, mirror=True), len(index), torch.Generator().manual_seed(0))
    got = Normaliser(mean, std, "cpu").augmented(torch.from_numpy(pixels), index, draws)

    expected = torch.zeros(8, 3, 8, 6)
    for n in range(8):
        image = (torch.from_numpy(pixels[index[n]]).float() - torch.tensor(mean)) / torch.tensor(std)
        padded = torch.nn.functional.pad(image.permute(2, 0, 1), (2, 2, 2, 2))
        down, right = (draws.shift[n] + 2).tolist()
        crop = padded[:, down : down + 8, right : right + 6]
        expected[n] = crop.flip(2) if draws.mirrored[n] else crop
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_draws_cover_every_shift_and_mirror_half():
    draws = Draws.sample(Augment(pad=1, mirror=True), 9000, torch.Generator().manual_seed(0))
    cells = torch.bincount((draws.shift[:, 0] + 1) * 3 + draws.shift[:, 1] + 1, minlength=9)
    chi_square = ((cells - 1000.0) ** 2 / 1000).sum()
    assert chi_square < 26.1  # the 0.999 quantile with 8 degrees of freedom
    assert abs(int(draws.mirrored.sum()) - 4500) < 156  # 3.3 standard deviations


def test_no_augmentation_is_no_change():
    pixels = torch.from_numpy(tiny_data.images(5, channels=3)[0])
    draws = Draws.sample(Augment(), 5, torch.Generator().manual_seed(0))
    normaliser = Normaliser((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "cpu")
    torch.testing.assert_close(
        normaliser.augmented(pixels, torch.arange(5), draws), normaliser.plain(pixels), rtol=0, atol=0
    )
