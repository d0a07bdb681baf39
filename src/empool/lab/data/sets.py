"""Data sets in memory: decoded once, cached, cut to size by class."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from empool.lab.data import sources
from empool.lab.data.sources import SPLITS, Decoded
from empool.lab.errors import LabError
from empool.lab.files import remove_unfinished, replacing

_log = logging.getLogger(__name__)
_FORMAT = 2  # of the cached files; part of their names
_DAY = 24 * 60 * 60.0  # seconds


class Data(Protocol):
    """What every data set says of itself, its images in memory or not."""

    @property
    def name(self) -> str:
        """Name of the data set, or of its folder."""

    @property
    def train(self) -> Sized:
        """Training images."""

    @property
    def fingerprint(self) -> str:
        """Tells data sets of one name apart, hexadecimal."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width; None where images differ in them."""

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""

    @property
    def test(self) -> Sized:
        """The test images."""

    @property
    def files(self) -> Mapping[str, str]:
        """Hash of each file that they came from, by its path in the folder; none where files are not read whole."""

    @property
    def chance_error(self) -> float | None:
        """Error in percent of naming the class that most training images are of; None where they are not counted."""


@dataclass(frozen=True)
class Split:
    """Images and labels.

    Attributes:
        images: ``(N, H, W, C)`` uint8.
        labels: ``(N,)`` int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Move to a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A data set, ready for training.

    Attributes:
        name: of the data set, or of its folder.
        train: training images.
        test: test images.
        classes: their names.
        mean: of each channel of the training images, in [0, 255].
        std: standard deviation, likewise; 1 for a channel without any.
        fingerprint: of all images and labels before any limit, hexadecimal.
        files: hash of each file that they came from, by its path in the folder; none for a data set with a name.
        validation: training images that are held out, and measured alone.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    files: Mapping[str, str] = field(default_factory=dict)
    validation: Split | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.train.images.shape[1:3]
        return height, width

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.train.images.shape[3])

    @property
    def chance_error(self) -> float:
        """Error in percent of naming the class that most training images are of."""
        return 100 * (1 - float(torch.bincount(self.train.labels).max()) / len(self.train))


def load(
    source: str,
    train_limit: int | None = None,
    test_limit: int | None = None,
    *,
    validation: float = 0.0,
    label_column: str | None = None,
) -> DataSet:
    """Load a data set from its cache, or decode and cache it.

    Args:
        source: a name of `sources.KNOWN`, or a folder.
        train_limit: number of training images to keep, as many of each class as of any other; None keeps all.
        test_limit: of test images, likewise.
        validation: share of all training images, as many of each class, always the same ones, that is held out before
            `train_limit` chooses among the others.
        label_column: of parquet files; None chooses it if there is no doubt.

    Raises:
        LabError: for a source that is absent, incomplete or damaged.
    """
    files = sources.digests(source)
    decoded, fingerprint = _cached(source, files, label_column)
    name = source if source in sources.KNOWN else Path(source).resolve().name
    return of_arrays(name, decoded, fingerprint, files, train_limit, test_limit, validation)


def of_arrays(
    name: str,
    decoded: Decoded,
    fingerprint: str,
    files: Mapping[str, str],
    train_limit: int | None,
    test_limit: int | None,
    validation: float,
) -> DataSet:
    """Choose images, and make a data set of them; arguments as of `load`."""
    labels = decoded.labels["train"]
    everyone = np.arange(len(labels))
    held_out = stratified(labels, max(1, round(validation * len(labels))), seed=1) if validation else everyone[:0]
    left = np.setdiff1d(everyone, held_out)
    if train_limit is not None:
        left = left[stratified(labels[left], train_limit)]
    tested = np.arange(len(decoded.labels["test"]))
    if test_limit is not None:
        tested = stratified(decoded.labels["test"], test_limit)

    def split(name: str, chosen: npt.NDArray[np.int64]) -> Split:
        whole = len(chosen) == len(decoded.labels[name])  # Not copied then.
        images, labels = decoded.images[name], decoded.labels[name]
        return Split(*(torch.from_numpy(array if whole else array[chosen]) for array in (images, labels)))

    train = split("train", left)
    mean, std = _statistics(train.images.numpy())
    measured = split("train", held_out) if validation else None
    return DataSet(
        name, train, split("test", tested), decoded.classes, mean, std, fingerprint, files, validation=measured
    )


def stratified(labels: npt.NDArray[np.int64], limit: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose `limit` images, the same number of each class as far as there are, always the same ones.

    Returns:
        Their indices, ascending. A smaller limit chooses a subset of a larger one's choice.

    Raises:
        LabError: if the limit is below 1.
    """
    if limit < 1:
        raise LabError(f"a limit on the number of images must be at least 1, got {limit}")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # Place of each image among those of its class, in the shuffled order; images with the lowest places are chosen.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(place, kind="stable")[:limit]])


def cache_folder() -> Path:
    """Give the folder of decoded data sets: ``$XDG_CACHE_HOME/empool``, by default ``~/.cache/empool``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "empool"


def _cached(source: str, files: Mapping[str, str], label_column: str | None) -> tuple[Decoded, str]:
    chosen = f"-{hashlib.blake2b(label_column.encode(), digest_size=4).hexdigest()}" if label_column else ""
    path = cache_folder() / f"{sources.key(source, files)}{chosen}-v{_FORMAT}.npz"
    if path.exists():
        try:
            return _read(path)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, KeyError, EOFError, OSError):
            _log.warning("%s is damaged; decoding %s again", path, source)
    else:
        _log.info("decoding %s (once; kept in %s)", source, path)
    decoded = sources.decode(source, label_column)
    fingerprint = fingerprint_of(decoded)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, age=_DAY)  # Other processes may be decoding too.
        _write(path, decoded, fingerprint)
    except OSError as error:
        _log.warning("cannot keep the decoded images in %s (%s); going on without", path, error.strerror)
    return decoded, fingerprint


def _write(path: Path, decoded: Decoded, fingerprint: str) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = decoded.images[split]
        arrays[f"{split}_labels"] = decoded.labels[split]
    about = json.dumps({"classes": decoded.classes, "fingerprint": fingerprint})
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, about=np.array(about), **arrays)  # type: ignore[arg-type]


def _read(path: Path) -> tuple[Decoded, str]:
    # A zip archive holds a checksum of each array, and reading it whole verifies it.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        images = {split: arrays[f"{split}_images"] for split in SPLITS}
        labels = {split: arrays[f"{split}_labels"] for split in SPLITS}
    return Decoded(images, labels, tuple(about["classes"])), about["fingerprint"]


def fingerprint_of(decoded: Decoded) -> str:
    """Hash all images and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for split in SPLITS:
        digest.update(str(decoded.images[split].shape).encode())
        digest.update(np.ascontiguousarray(decoded.images[split]).data)
        digest.update(decoded.labels[split].astype("<i8").data)
    return digest.hexdigest()


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel from its histogram: exact, whatever the order."""
    levels = np.arange(256)
    means = []
    deviations = []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (levels - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)
