"""The part of CIFAR-10 that comes with the repository is what its page says."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "data" / "cifar10-mini"
pytestmark = pytest.mark.skipif(not (FOLDER / "train.parquet").exists(), reason="the images come with the repository")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tuple[str, int]]]:
    """Give the hash and the label of each image."""
    found = {}
    for split in ("train", "test"):
        table = pq.read_table(FOLDER / f"{split}.parquet")
        hashes = []
        for row in table["img"].to_pylist():
            with Image.open(io.BytesIO(row["bytes"])) as image:
                assert (image.mode, image.size) == ("RGB", (32, 32))
                hashes.append(hashlib.sha256(image.tobytes()).hexdigest())
        found[split] = list(zip(hashes, table["label"].to_pylist(), strict=True))
    return found


def test_each_class_has_200_images(splits):
    for images in splits.values():
        assert Counter(label for _, label in images) == dict.fromkeys(range(10), 200)


def test_all_images_are_different(splits):
    hashes = [image for images in splits.values() for image, _ in images]
    assert len(set(hashes)) == 4000


def test_the_images_are_those_with_the_smallest_hashes(splits):
    """200 of 5,000 are chosen for training and 200 of 1,000 for testing, so the hashes lie below these shares."""
    for split, share in (("train", 200 / 5000), ("test", 200 / 1000)):
        assert [image for image, _ in splits[split]] == sorted(image for image, _ in splits[split])
        assert max(int(image, 16) for image, _ in splits[split]) / 2**256 < 1.3 * share
