"""What a data set is: its images in memory, or as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Split:
    """Images and labels in memory."""

    images: Tensor  # (N, H, W, C) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: npt.NDArray[np.int64]) -> Split:
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device | str) -> Split:
        """Move to a device."""
        return Split(self.images.to(device), self.labels.to(device))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.images.shape[1:3]
        return height, width

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.images.shape[3])

    @property
    def chance_error(self) -> float:
        """Error in percent of naming the class that most images are of."""
        return 100 * (1 - float(torch.bincount(self.labels).max()) / len(self))


@dataclass(frozen=True)
class Streamed:
    """Images that are loaded when their turn comes."""

    count: int
    # From a run's configuration, and whether it is for training, to image tensors (C, H, W) and labels.
    view: Callable[[Any, bool], Dataset[Any]]
    image_size: tuple[int, int] | None = None  # height and width; None where images differ in them
    in_channels: int = 3
    chance_error: None = None  # The labels aren't counted.

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class DataSet:
    """A data set, ready for training."""

    name: str  # of the data set, or of its folder
    train: Split | Streamed
    test: Split | Streamed
    classes: tuple[str, ...]  # their names
    fingerprint: str  # of all images and labels, or of their names if they are streamed, before any limit; hexadecimal
    mean: tuple[float, ...] = ()  # of each channel of the training images in memory, in [0, 255]
    std: tuple[float, ...] = ()  # standard deviation, likewise; 1 for a channel without any
    validation: Split | None = None  # training images that are held out, and measured alone


def place_in_class(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number the images of each class from 0, in their order."""
    counts = np.bincount(labels)
    places = np.empty_like(labels)
    places[np.argsort(labels, kind="stable")] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def stratified(labels: npt.NDArray[np.int64], limit: int | None, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose `limit` images, the same number of each class as far as there are, always the same ones; None is all.

    Their indices ascend. A smaller limit chooses a subset of a larger one's choice.
    """
    if limit is None:
        return np.arange(len(labels))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    taken_first = np.lexsort((labels[shuffled], place_in_class(labels[shuffled])))  # by place, then by class
    return np.sort(shuffled[taken_first[:limit]])
