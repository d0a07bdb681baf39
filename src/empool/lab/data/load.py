"""The one way to a data set: by name, from a folder, for a network of timm, or from a user's factory."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from empool.lab.data import sources
from empool.lab.data.sets import DataSet, Split, Streamed, stratified
from empool.lab.data.sources import SPLITS, Decoded
from empool.lab.errors import LabError
from empool.lab.files import remove_unfinished, replacing
from empool.lab.study import networks
from empool.models import Network

_log = logging.getLogger(__name__)
_FORMAT = 2  # of the cached files; part of their names
_DAY = 24 * 60 * 60.0  # seconds


def load_data(
    network: Network,
    source: str,
    train_limit: int | None = None,
    test_limit: int | None = None,
    workers: int | None = None,
    *,
    validation: float = 0.0,
    label_column: str | None = None,
) -> DataSet:
    """Load a data set into memory, or list its images for a network that streams them.

    Args:
        network: that it is for.
        source: name of a data set, a folder, or ``package.module:factory``.
        train_limit: number of training images, as many of each class as of any other; None for all.
        test_limit: number of test images, likewise.
        workers: processes that load images, where these aren't held in memory.
        validation: share of all training images, as many of each class, always the same ones, that is held out before
            `train_limit` chooses among the others.
        label_column: of parquet files; None chooses it if there is no doubt.

    Raises:
        LabError: for a source that is absent, incomplete or damaged, or an option that would have no effect.
    """
    own = networks.is_own(source)
    if (own or network.streams) and label_column is not None:
        raise LabError("--label-column is for a folder of parquet files")
    if own:
        data = _own(source, train_limit, test_limit, validation)
    elif network.streams:
        if validation:
            raise LabError("--validation is for images in memory, not for networks of timm")
        from empool.lab.data import streams

        return streams.load(source, train_limit, test_limit)
    else:
        files = sources.digests(source)
        decoded, fingerprint = _cached(source, files, label_column)
        name = source if source in sources.KNOWN else Path(source).resolve().name
        data = _chosen(name, decoded, fingerprint, files, train_limit, test_limit, validation)
    if workers is not None and isinstance(data.train, Split):
        raise LabError("--workers is for images that are loaded when their turn comes; these are in memory")
    return data


def _chosen(
    name: str,
    decoded: Decoded,
    fingerprint: str,
    files: Mapping[str, str],
    train_limit: int | None,
    test_limit: int | None,
    validation: float,
) -> DataSet:
    """Choose images, and make a data set of them."""
    labels = decoded.labels["train"]
    everyone = np.arange(len(labels))
    held_out = stratified(labels, max(1, round(validation * len(labels))), seed=1) if validation else everyone[:0]
    left = np.setdiff1d(everyone, held_out)
    left = left[stratified(labels[left], train_limit)]

    def split(name: str, chosen: npt.NDArray[np.int64]) -> Split:
        whole = len(chosen) == len(decoded.labels[name])  # Not copied then.
        images, labels = decoded.images[name], decoded.labels[name]
        return Split(*(torch.from_numpy(array if whole else array[chosen]) for array in (images, labels)))

    train, test = split("train", left), split("test", stratified(decoded.labels["test"], test_limit))
    measured = split("train", held_out) if validation else None
    mean, std = _statistics(train.images.numpy())
    return DataSet(name, train, test, decoded.classes, fingerprint, mean, std, files, measured)


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel from its histogram: exact, whatever the order."""
    levels = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        means.append(float(share @ levels))
        deviations.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def _own(spelling: str, train_limit: int | None, test_limit: int | None, validation: float) -> DataSet:
    """Load what a user's factory gives: ``package.module:factory``, which returns a training and a test data set.

    Each is a `torch.utils.data.Dataset` of images and labels. Images of eight bits (of PIL, or uint8) are held in
    memory, and augmented as the recipe says; float tensors ``(C, H, W)`` are taken as they come, every epoch anew.
    """
    made = networks.imported("--data", spelling)()
    if not (isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made)):
        raise LabError(f"--data {spelling}: expected a training and a test Dataset, got {type(made).__name__}")
    try:
        image, label = made[0][0]
        int(label)
    except (TypeError, ValueError):
        raise LabError(f"--data {spelling}: expected items of an image and an integer label") from None
    classes = tuple(map(str, getattr(made[0], "classes", ())))
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):
        decoded = _in_memory(spelling, made, classes)
        return _chosen(spelling, decoded, decoded.fingerprint(), {}, train_limit, test_limit, validation)
    if validation or train_limit or test_limit:
        raise LabError(f"--data {spelling}: its images come as float tensors; choose among them in the factory itself")
    if not classes:
        raise LabError(f"--data {spelling}: expected the training Dataset to have `classes`, their names")
    channels, height, width = image.shape
    digest = hashlib.blake2b(f"{spelling} {len(made[0])} {len(made[1])} {classes}".encode(), digest_size=16)
    train, test = (Streamed(len(p), functools.partial(_as_they_come, p), (height, width), channels) for p in made)
    return DataSet(spelling, train, test, classes, digest.hexdigest())


def _as_they_come(images: Dataset[Any], config: object, training: bool) -> Dataset[Any]:
    return images


def _in_memory(spelling: str, parts: tuple[Any, Any], classes: tuple[str, ...]) -> Decoded:
    images, labels = {}, {}
    for split, part in zip(SPLITS, parts, strict=True):
        items = [part[index] for index in range(len(part))]
        arrays = [_eight_bits(image) for image, _ in items]
        if len({array.shape for array in arrays}) != 1:
            raise LabError(f"--data {spelling}: expected {split} images of one size; or give float tensors")
        images[split], labels[split] = np.stack(arrays), np.array([int(label) for _, label in items], dtype=np.int64)
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise LabError(f"--data {spelling}: training and test images differ in size")
    highest = max(int(of_split.max()) for of_split in labels.values())
    return Decoded(images, labels, classes or tuple(map(str, range(highest + 1))))


def _eight_bits(image: Any) -> npt.NDArray[np.uint8]:
    """Give ``(H, W, C)`` of an image of PIL, an array ``(H, W[, C])`` or a tensor ``(C, H, W)``."""
    if isinstance(image, torch.Tensor):
        image = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
    array = sources.as_array(sources.eight_bits(image) if hasattr(image, "mode") else image)
    if array.dtype != np.uint8:
        raise LabError(f"--data: expected images of eight bits or float tensors, got {array.dtype}")
    return array


def cache_folder() -> Path:
    """Give the folder of decoded data sets: ``$XDG_CACHE_HOME/empool``, by default ``~/.cache/empool``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empool"


def _cached(source: str, files: Mapping[str, str], label_column: str | None) -> tuple[Decoded, str]:
    """Read a decoded data set and its fingerprint from the cache, or decode it and keep it there."""
    listed = "".join(f"{name}\0{digest}\0" for name, digest in files.items()).encode()
    key = source if source in sources.KNOWN else f"folder-{hashlib.blake2b(listed, digest_size=16).hexdigest()}"
    chosen = f"-{hashlib.blake2b(label_column.encode(), digest_size=4).hexdigest()}" if label_column else ""
    path = cache_folder() / f"{key}{chosen}-v{_FORMAT}.npz"
    if path.exists():
        try:
            return _read(path)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, KeyError, EOFError, OSError):
            _log.warning("%s is damaged; decoding %s again", path, source)
    else:
        _log.info("decoding %s (once; kept in %s)", source, path)
    decoded = sources.decode(source, label_column)
    fingerprint = decoded.fingerprint()
    arrays: dict[str, Any] = {f"{split}_images": decoded.images[split] for split in SPLITS}
    arrays |= {f"{split}_labels": decoded.labels[split] for split in SPLITS}
    about = np.array(json.dumps({"classes": decoded.classes, "fingerprint": fingerprint}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, age=_DAY)  # Other processes may be decoding too.
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, about=about, **arrays)
    except OSError as error:
        _log.warning("cannot keep the decoded images in %s (%s); going on without", path, error.strerror)
    return decoded, fingerprint


def _read(path: Path) -> tuple[Decoded, str]:
    # A zip archive holds a checksum of each array, and reading it whole verifies it.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        images, labels = ({split: arrays[f"{split}_{what}"] for split in SPLITS} for what in ("images", "labels"))
    return Decoded(images, labels, tuple(about["classes"])), about["fingerprint"]
