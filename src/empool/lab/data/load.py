"""The one way to a data set: by name, from a folder, for a network of timm, or from a user's factory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from empool.lab.data import sources
from empool.lab.data.sets import DataSet, Split, Streamed, stratified
from empool.lab.data.sources import Decoded
from empool.lab.errors import LabError
from empool.lab.study import networks
from empool.models import Network


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

    The options are `empool.lab.execute.configure.Options`'s. Limits choose as many images of each class as of any
    other; `validation` holds out always the same ones, before `train_limit` chooses among the others.

    Raises:
        LabError: for a source that is absent, incomplete or damaged, or an option that would have no effect.
    """
    own = networks.is_own(source)
    if (own or network.streams) and label_column is not None:
        raise LabError("--label-column is for a folder of parquet files")
    if network.streams and not own:
        if validation:
            raise LabError("--validation is for images in memory, not for networks of timm")
        from empool.lab.data import streams

        return streams.load(source, train_limit, test_limit)
    if own:
        name, decoded = source, _own(source)
        if isinstance(decoded, DataSet):
            if validation or train_limit or test_limit:
                raise LabError(
                    f"--data {source}: its images come as float tensors; choose among them in the factory itself"
                )
            return decoded
    else:
        name = source if source in sources.KNOWN else Path(source).resolve().name
        decoded = sources.decode(source, label_column)
    if workers is not None:
        raise LabError("--workers is for images that are loaded when their turn comes; these are in memory")
    train, test = (decoded.splits[split] for split in sources.SPLITS)
    labels = train.labels.numpy()
    everyone = np.arange(len(labels))
    held_out = stratified(labels, max(1, round(validation * len(labels))), seed=1) if validation else everyone[:0]
    left = np.setdiff1d(everyone, held_out)
    left = left[stratified(labels[left], train_limit)]
    measured = train[held_out] if validation else None
    if len(left) < len(everyone):  # All aren't copied.
        train = train[left]
    if test_limit is not None:
        test = test[stratified(test.labels.numpy(), test_limit)]
    return DataSet(name, train, test, decoded.classes, decoded.fingerprint(), *_statistics(train), measured)


def _statistics(images: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel from its histogram: exact, whatever the order."""
    levels = np.arange(256)
    means, deviations = [], []
    for channel in images.images.numpy().transpose(3, 0, 1, 2):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        means.append(float(share @ levels))
        deviations.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def _own(spelling: str) -> Decoded | DataSet:
    """Load what a user's factory gives: ``package.module:factory``, which returns a training and a test data set.

    Each is a `torch.utils.data.Dataset` of images and labels. Images of eight bits (of PIL, or uint8) are held in
    memory, and augmented as the recipe says; float tensors ``(C, H, W)`` are taken as they come, every epoch anew.
    """
    where = f"--data {spelling}"
    made = networks.imported("--data", spelling)()
    if not (isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made)):
        raise LabError(f"{where}: expected a training and a test Dataset, got {type(made).__name__}")
    try:
        image, label = made[0][0]
        int(label)
    except (TypeError, ValueError):
        raise LabError(f"{where}: expected items of an image and an integer label") from None
    classes = tuple(map(str, getattr(made[0], "classes", ())))
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):

        def rows(split: str, part: Any) -> Iterator[sources.Row]:
            for n, (image, label) in ((n, part[n]) for n in range(len(part))):
                yield f"{where}: {split} image {n}", image, int(label)

        parts = zip(sources.SPLITS, made, strict=True)
        return sources.arrays(where, {split: rows(split, part) for split, part in parts}, classes)
    if not classes:
        raise LabError(f"{where}: expected the training Dataset to have `classes`, their names")
    channels, height, width = image.shape
    digest = hashlib.blake2b(f"{spelling} {len(made[0])} {len(made[1])} {classes}".encode(), digest_size=16)
    train, test = (Streamed(len(p), functools.partial(_as_they_come, p), (height, width), channels) for p in made)
    return DataSet(spelling, train, test, classes, digest.hexdigest())


def _as_they_come(images: Dataset[Any], config: object, training: bool) -> Dataset[Any]:
    return images
