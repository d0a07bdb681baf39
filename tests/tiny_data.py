"""Data sets of a few images, in memory and as the folders that users have."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from empool.lab.data.sets import DataSet, Split, Streamed
from empool.lab.execute.supervise import Here, carry_out
from empool.lab.study.run import RunConfig
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress
from empool.models.cnn import CNNRecipe

NAMES = ("bright", "dark", "left")
HUES = ((120, 0, 0), (0, 120, 0), (0, 0, 120), (100, 100, 0))


def images(count: int, channels: int = 1, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make noisy images of three classes that a network can tell apart, and their labels 0, 1, 2, 0, ..."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).integers(0, 100, (count, size, size, channels))
    noise[labels == 0] += 120
    noise[labels == 2, :, : size // 2] += 120
    return noise.astype(np.uint8), labels.astype(np.int64)


def data_set(train: int = 40, test: int = 18) -> DataSet:
    """Make a grey data set in memory."""
    splits = []
    for seed, count in enumerate((train, test)):
        pixels, labels = images(count, seed=seed)
        splits.append(Split(torch.from_numpy(pixels), torch.from_numpy(labels)))
    return DataSet("tiny", *splits, classes=NAMES, mean=(110.0,), std=(60.0,), fingerprint="f1")


def as_they_come(images: Split) -> Streamed:
    """Give images as float tensors when their turn comes."""
    tensors = (images.images.movedim(3, 1).float() - 110) / 60
    view = torch.utils.data.TensorDataset(tensors, images.labels)
    return Streamed(len(images), lambda config, training: view, images.image_size, images.in_channels)


def streamed(data: DataSet) -> DataSet:
    """Give a data set whose images aren't held in memory."""
    return dataclasses.replace(data, train=as_they_come(data.train), test=as_they_come(data.test), mean=(), std=())


def config(pooling: str = "max", seed: int = 0, epochs: int = 3, **changes: object) -> RunConfig:
    """Configure a run on `data_set` that takes a fraction of a second."""
    recipe = CNNRecipe(epochs=epochs, batch_size=16, learning_rate=0.05, augment="crop:1,mirror", width=8)
    fields = {
        "data": "tiny",
        "fingerprint": "f1",
        "model": "cnn",
        "pooling": pooling,
        "seed": seed,
        "train_limit": None,
        "test_limit": None,
        "recipe": recipe,
    }
    return RunConfig(**{**fields, **changes})


def plan(settings: RunConfig, poolings: tuple[str, ...], seeds: tuple[int, ...] = (0,)) -> list[RunConfig]:
    """List the runs of a study: all poolings with the first seed, then with the second, ..."""
    return [dataclasses.replace(settings, pooling=pooling, seed=seed) for seed in seeds for pooling in poolings]


def study(directory, runs, data=None, place=None, progress=None, command="empool ...", loggers=None):
    """Do a study, by default in this process and without a word."""
    where = place or Here("cpu"), progress or Progress(quiet=True), loggers or Loggers()
    with where[1]:
        return carry_out(directory, runs, data or data_set(), *where, command)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def png(pixels: np.ndarray) -> bytes:
    """Encode an image ``(H, W, C)``."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def parquet_folder(folder: Path, channels: int = 3, train: int = 30, test: int = 9) -> Path:
    """Write two training files and a test file in the hub's layout, class names in the schema's metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = images(train, channels)
    half = train // 2
    write_parquet(folder / "train-00000-of-00002.parquet", [png(p) for p in pixels[:half]], labels[:half].tolist())
    write_parquet(folder / "train-00001-of-00002.parquet", [png(p) for p in pixels[half:]], labels[half:].tolist())
    pixels, labels = images(test, channels, seed=1)
    write_parquet(folder / "test-00000-of-00001.parquet", [png(p) for p in pixels], labels.tolist())
    return folder


def write_parquet(
    path: Path,
    contents: list[bytes | None],
    labels: list[int | None],
    names: tuple[str, ...] = NAMES,
    image: str = "img",
) -> None:
    """Write encoded images and labels as the hub does; without names as others do."""
    label = {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value"}
    features = {image: {"_type": "Image"}, "label": label}
    schema = pa.schema(
        [
            (image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"bytes": content, "path": None} for content in contents]
    pq.write_table(pa.table({image: rows, "label": labels}, schema=schema), path)


def class_folders(folder: Path, channels: int = 1, train: int = 30, test: int = 9) -> Path:
    """Write train/CLASS/N.png and test/CLASS/N.png."""
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        for number, (pixels, label) in enumerate(zip(*images(count, channels, seed=seed), strict=True)):
            path = folder / split / NAMES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels))
    return folder


def photographs(folder: Path, train: int = 48, test: int = 16, seed: int = 0, test_folder: str = "val") -> Path:
    """Write train/CLASS/N.png and val/CLASS/N.png in colour: four classes that differ in hue, images in size."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), (test_folder, test)):
        for number in range(count):
            label = number % len(HUES)
            height, width = random.integers(36, 60, 2)
            pixels = random.integers(0, 120, (height, width, 3)) + np.array(HUES[label])
            path = folder / split / f"n{label:02}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels.astype(np.uint8)))
    return folder


def python_path() -> str:
    """Name what a process of its own imports from: what this one does."""
    return os.pathsep.join(path for path in sys.path if path)
