"""The one way to a data set: by name, from a folder, for a network of timm, or from a user's factory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from empool.lab.data import sources, streams
from empool.lab.data.sets import DataSet, Split, Streamed, stratified
from empool.lab.errors import LabError, own_code
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
    """
    own = networks.is_own(source)
    if network.streams:
        streams.check_timm()
    if label_column is not None and (own or network.streams or source in sources.KNOWN):
        raise LabError("--label-column is for a folder of parquet files")
    if own:
        data = _own(source, network)
    elif network.streams:
        data = streams.load(Path(source), train_limit, test_limit)
    else:
        data = sources.decode(source, label_column)
    train, test = data.train, data.test
    if isinstance(train, Streamed) or isinstance(test, Streamed):
        if validation or (own and (train_limit or test_limit)):
            said = "its images are loaded when their turn comes; choose among them beforehand"
            raise LabError(f"--data {source}: {said}")
        return data
    if workers is not None:
        raise LabError("--workers is for images that are loaded when their turn comes; these are in memory")
    labels = train.labels.numpy()
    everyone = np.arange(len(labels))
    held_out = stratified(labels, max(1, round(validation * len(labels))), seed=1) if validation else everyone[:0]
    left = np.setdiff1d(everyone, held_out)
    if not len(left):
        raise LabError(f"validation: {validation:g} of {len(everyone)} training images leaves none: hold out fewer")
    left = left[stratified(labels[left], train_limit)]
    measured = train[held_out] if validation else None
    if len(left) < len(everyone):  # All aren't copied.
        train = train[left]
    if test_limit is not None:
        test = test[stratified(test.labels.numpy(), test_limit)]
    name = source if own or source in sources.KNOWN else Path(source).resolve().name
    mean, std = _statistics(train)
    return dataclasses.replace(data, name=name, train=train, test=test, mean=mean, std=std, validation=measured)


def _statistics(images: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel from its histogram: exact, whatever the order."""
    levels = np.arange(256)
    means, deviations = [], []
    for channel in images.images.numpy().transpose(3, 0, 1, 2):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        means.append(float(share @ levels))
        deviations.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def _own(spelling: str, network: Network) -> DataSet:
    """Load what a user's factory gives: ``package.module:factory``, which returns a training and a test data set.

    Each is a `torch.utils.data.Dataset` of images and labels. Images of eight bits (of PIL, or uint8) are held in
    memory, and augmented as the recipe says; for a network of timm they are of PIL, and read when their turn comes.
    Float tensors ``(C, H, W)`` are taken as they come, every epoch anew.
    """
    where = f"--data {spelling}"
    made = own_code(where, networks.imported("--data", spelling))
    if not (isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made)):
        raise LabError(f"{where}: expected a training and a test Dataset, got {type(made).__name__}")
    firsts = own_code(where, lambda: [part[0] if len(part) else None for part in made])
    if not all(isinstance(first, tuple | list) and len(first) == 2 for first in firsts):
        raise LabError(f"{where}: expected items of an image and an integer label")
    image = firsts[0][0]
    classes = tuple(map(str, getattr(made[0], "classes", ())))
    floats = isinstance(image, torch.Tensor) and image.is_floating_point()
    if not (floats or network.streams):
        train_rows, test_rows = (_rows(f"{where}: {name}", p) for name, p in zip(sources.SPLITS, made, strict=True))
        return sources.arrays(where, train_rows, test_rows, classes)
    if not (image.ndim == 3 if floats else hasattr(image, "convert")):
        raise LabError(f"{where}: expected float tensors (C, H, W) or, for a network of timm, images of PIL")
    if not classes:
        raise LabError(f"{where}: expected the training Dataset to have `classes`, their names")
    digest = hashlib.blake2b(f"{spelling} {len(made[0])} {len(made[1])} {classes}".encode(), digest_size=16)
    shape = tuple(image.shape) if floats else None
    parts = [_Items(p, f"{where}: {n}", len(classes), shape) for n, p in zip(sources.SPLITS, made, strict=True)]
    if shape:
        train, test = (Streamed(len(p), p.as_they_come, shape[1:], shape[0]) for p in parts)
    else:
        train, test = (Streamed(len(p), functools.partial(streams.View, p, range(len(p)))) for p in parts)
    return DataSet(spelling, train, test, classes, digest.hexdigest())


class _Items(Dataset[Any]):
    """Images and labels of a user's own, each checked when its turn comes."""

    def __init__(self, items: Any, where: str, classes: int, shape: tuple[int, ...] | None) -> None:
        self.items, self.where, self.classes, self.shape = items, where, classes, shape

    def __len__(self) -> int:
        return len(self.items)

    def as_they_come(self, config: object, training: bool) -> _Items:
        """View them in training and in testing; as of `Streamed`."""
        return self

    def __getitem__(self, index: int) -> tuple[Any, int]:
        name = f"{self.where} image {index}"
        image, label = own_code(name, lambda n: self.items[n], index)
        if self.shape and (size := tuple(getattr(image, "shape", ()))) != self.shape:
            this, other = ("x".join(map(str, shape)) or type(image).__name__ for shape in (size, self.shape))
            raise LabError(f"{name} is {this}, but train image 0 is {other}; make them one size")
        return image, sources.checked_label(name, label, self.classes)


def _rows(where: str, images: Any) -> Iterator[sources.Row]:
    for n in range(len(images)):
        yield f"{where} image {n}", *own_code(f"{where} image {n}", lambda n: (*images[n],), n)
