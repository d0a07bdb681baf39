"""Data sets that are too large for memory: read, decoded and augmented by timm's pipeline when their turn comes."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset, IterableDataset

from empool.lab.data.sets import stratified
from empool.lab.data.sources import eight_bits, undecodable
from empool.lab.errors import LabError, first_line
from empool.lab.study.run import RunConfig, derived_seed

# Names of the splits, in the order in which they are looked for; a test split often has no labels, hence last.
_TRAIN = ("train",)
_TEST = ("val", "validation", "valid", "test")
_HUB = ("hfds", "hfids")  # timm's prefixes of data sets of the hub: fetched as a whole, and streamed
_EXPECTED = "expected train/CLASS/IMAGE and val/CLASS/IMAGE"


class Images(Protocol):
    """One split: images with labels, none of them read yet."""

    def __len__(self) -> int: ...

    def view(self, config: RunConfig, *, training: bool) -> Dataset[tuple[Any, int]]:
        """Make what timm's loader takes; its `transform` is set there, its `epoch` before every pass."""


@dataclass(frozen=True)
class Streamed:
    """A data set of which only the names and labels are in memory.

    Attributes:
        name: of its folder, or as it was given.
        fingerprint: of the names of all images and their labels, before any limit, hexadecimal.
        classes: their names.
        train: training images.
        test: test images.
        workers: processes that read and decode images; 0: the process itself does.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    workers: int

    @property
    def image_size(self) -> None:
        """None: every image has a size of its own."""

    @property
    def in_channels(self) -> int:
        """3: grey images are read as coloured ones."""
        return 3

    @property
    def files(self) -> dict[str, str]:
        """None: reading all images would take as long as an epoch."""
        return {}


def load(
    source: str,
    train_limit: int | None = None,
    test_limit: int | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Streamed:
    """Find the images of a data set.

    Args:
        source: a folder with train/CLASS/IMAGE and val/CLASS/IMAGE; "hfds/NAME" or "hub:NAME" for a data set of the
            hub, or a folder of parquet files with columns "image" and "label"; "hfids/NAME" for the same, streamed.
        train_limit: number of training images to keep, as many of each class as of any other; None keeps all.
        test_limit: of test images, likewise.
        workers: processes that read and decode; None: as many as there are cores, and no more than 8.
        say: takes a line on what takes time.

    Raises:
        LabError: for a source that is absent or incomplete, or a limit on images that are streamed.
    """
    if source.startswith("hub:"):
        source = f"hfds/{source.removeprefix('hub:')}"
    if workers is None:
        workers = min(8, os.cpu_count() or 1)
    say(f"listing the images of {source}")
    prefix, slash, _ = source.partition("/")
    if slash and prefix in _HUB:
        load_hub = _streamed if prefix == "hfids" else _fetched
        return load_hub(source, train_limit, test_limit, workers)
    return _folder(Path(source), train_limit, test_limit, workers)


class _Chosen:
    """Images with random access, of a folder or a fetched data set.

    Args:
        reader: timm's; gives an open file and a label for an index.
        table: name of the table whose rows the images are, for messages; None where every image is a file.
        labels: of all images, ``(M,)``.
        limit: number of images to keep; None keeps all.
    """

    def __init__(self, reader: Any, table: str | None, labels: npt.NDArray[np.int64], limit: int | None) -> None:
        self.reader, self.table = reader, table
        self.index = np.arange(len(labels)) if limit is None else stratified(labels, limit)

    def __len__(self) -> int:
        return len(self.index)

    def named(self, index: int) -> str:
        """Name an image."""
        return self.reader.filename(index, absolute=True) if self.table is None else f"{self.table}: row {index}"

    def view(self, config: RunConfig, *, training: bool) -> Dataset[tuple[Any, int]]:
        return _View(self, config.seed if training else None)


class _View(Dataset[tuple[Any, int]]):
    """A pass over images with random access; what is drawn for an image does not depend on who draws it.

    Args:
        images: which.
        seed: of what is drawn; None if nothing is.
    """

    transform: Callable[[Any], Any]

    def __init__(self, images: _Chosen, seed: int | None) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        index = int(self.images.index[place])
        try:
            file, label = self.images.reader[index]
            with file, Image.open(file) as image:
                pixels = eight_bits(image).convert("RGB")
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            raise undecodable(self.images.named(index), error) from None
        if self.seed is None:
            return self.transform(pixels), label
        with _drawing(derived_seed(self.seed, f"augment {index}", self.epoch)):
            return self.transform(pixels), label


class _Shards:
    """Images of a data set of the hub, fetched and decoded one after another, in training shuffled within a buffer."""

    def __init__(self, source: str, split: str, count: int) -> None:
        self.source, self.split, self.count = source, split, count

    def __len__(self) -> int:
        return self.count

    def view(self, config: RunConfig, *, training: bool) -> Dataset[tuple[Any, int]]:
        seed = derived_seed(config.seed, "order") % 2**31
        reader = create_dataset(
            self.source,
            split=self.split,
            is_training=training,
            batch_size=config.recipe.batch_size,
            num_samples=self.count,
            seed=seed,
        ).reader
        return ShardsView(reader, f"{self.source}, {self.split}", config.seed if training else None)


class ShardsView(IterableDataset[tuple[Any, int]]):
    """A pass over images that come one after another; what is drawn depends on the number of workers."""

    transform: Callable[[Any], Any]

    def __init__(self, reader: Any, where: str, seed: int | None) -> None:
        self.reader, self.where, self.seed, self.epoch = reader, where, seed, 0

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        info = torch.utils.data.get_worker_info()
        worker = info.id if info else 0
        self.reader.set_epoch(self.epoch)
        images, number = iter(self.reader), 0
        while True:
            try:
                pixels, label = next(images)
            except StopIteration:
                return
            except Exception as error:
                raise undecodable(f"{self.where}: image {number} of worker {worker}", error) from None
            if self.seed is None:
                yield self.transform(pixels), label
            else:
                with _drawing(derived_seed(self.seed, f"augment {worker} {number}", self.epoch)):
                    augmented = self.transform(pixels)
                yield augmented, label
            number += 1


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the generators that timm's and torchvision's transforms draw from, and leave them as they were."""
    state, torch_state = random.getstate(), torch.default_generator.get_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)  # Not torch.manual_seed, which seeds GPUs as well.
    try:
        yield
    finally:
        random.setstate(state)
        torch.default_generator.set_state(torch_state)


def _folder(folder: Path, train_limit: int | None, test_limit: int | None, workers: int) -> Streamed:
    if not folder.is_dir():
        raise LabError(f'no folder "{folder}": networks of timm are trained on a folder ({_EXPECTED}), or hfds/NAME')
    parts = {}
    for names in (_TRAIN, _TEST):
        root = next((folder / name for name in names if (folder / name).is_dir()), None)
        if root is None:
            raise LabError(f"{folder} has no folder {names[0]}: {_EXPECTED}")
        try:
            reader = create_dataset("", root=str(root), search_split=False).reader
        except RuntimeError as error:
            raise LabError(f"{root}: {first_line(error)}") from None
        if "" in reader.class_to_idx:
            outside = next(path for path, _ in reader.samples if Path(path).parent == root)
            raise LabError(f"{outside} is in no class: {_EXPECTED}")
        parts[names] = root, reader
    (train_root, train), (test_root, test) = parts[_TRAIN], parts[_TEST]
    if unknown := sorted(set(test.class_to_idx) - set(train.class_to_idx)):
        raise LabError(f"{test_root / unknown[0]}: no class of that name in {train_root}")
    if test.class_to_idx != train.class_to_idx:
        test = create_dataset("", root=str(test_root), search_split=False, class_map=train.class_to_idx).reader
    digest = hashlib.blake2b(digest_size=16)
    for root, reader in ((train_root, train), (test_root, test)):
        for path, label in reader.samples:
            digest.update(f"{path[len(str(root)) :]}\0{label}\0".encode())
    return Streamed(
        folder.resolve().name,
        digest.hexdigest(),
        tuple(train.class_to_idx),
        _of_folder(train, train_limit),
        _of_folder(test, test_limit),
        workers,
    )


def _of_folder(reader: Any, limit: int | None) -> _Chosen:
    labels = np.fromiter((label for _, label in reader.samples), np.int64, len(reader.samples))
    return _Chosen(reader, None, labels, limit)


def _fetched(source: str, train_limit: int | None, test_limit: int | None, workers: int) -> Streamed:
    (train_split, train), (test_split, test) = _readers(source)
    classes = _classes(train, source)
    digest = hashlib.blake2b(source.encode(), digest_size=16)

    def chosen(reader: Any, split: str, limit: int | None) -> _Chosen:
        with _from_the_hub(source):
            table = reader.dataset.select_columns([reader.label_key]).with_format("numpy")
            labels = np.asarray(table[:][reader.label_key])
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
            raise LabError(f"{source}, {split}: expected labels from 0 to {len(classes) - 1}")
        digest.update(labels.astype("<i8").data)
        return _Chosen(reader, f"{source}, {split}", labels, limit)

    images = chosen(train, train_split, train_limit), chosen(test, test_split, test_limit)
    return Streamed(source, digest.hexdigest(), classes, *images, workers)


def _streamed(source: str, train_limit: int | None, test_limit: int | None, workers: int) -> Streamed:
    if train_limit is not None or test_limit is not None:
        raise LabError(f"{source} is streamed, which gives no choice of images: limits need hfds/ in place of hfids/")
    (train_split, train), (test_split, test) = _readers(source)
    counted = f"{source}\0{train_split}\0{train.num_samples}\0{test_split}\0{test.num_samples}"
    return Streamed(
        source,
        hashlib.blake2b(counted.encode(), digest_size=16).hexdigest(),
        _classes(train, source),
        _Shards(source, train_split, train.num_samples),
        _Shards(source, test_split, test.num_samples),
        workers,
    )


def _readers(source: str) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """Open the training and the test split, each with its name."""
    train, test = _splits(source)
    with _from_the_hub(source):
        return (train, create_dataset(source, split=train).reader), (test, create_dataset(source, split=test).reader)


def _splits(source: str) -> tuple[str, str]:
    """Find the names of the splits."""
    import datasets

    with _from_the_hub(source):
        found = datasets.get_dataset_split_names(source.partition("/")[2])
    train, test = (next((name for name in names if name in found), None) for names in (_TRAIN, _TEST))
    if train is None or test is None:
        raise LabError(f"{source} has the splits {', '.join(found)}: expected train and one of {', '.join(_TEST)}")
    return train, test


def _classes(reader: Any, source: str) -> tuple[str, ...]:
    if not reader.class_to_idx:
        raise LabError(f'{source}: expected the names of the classes with the column "label"')
    return tuple(reader.class_to_idx)


@contextmanager
def _from_the_hub(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The client raises its own and several HTTP libraries' errors.
        reason = first_line(error)
        raise LabError(f"cannot get {source} ({reason}); with a copy on disk, give its folder: --data PATH") from error
