"""What a data set is: its images in memory, or as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from empool.lab.errors import LabError


@dataclass(frozen=True)
class Split:
    """Images and labels in memory.

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
    """Images that are loaded when their turn comes.

    Attributes:
        count: of them.
        view: gives a `torch.utils.data.Dataset` of image tensors ``(C, H, W)`` and labels for a run's configuration and
            whether it is for training.
        image_size: height and width; None where images differ in them.
        in_channels: 1 or 3.
    """

    count: int
    view: Callable[[Any, bool], Dataset[Any]]
    image_size: tuple[int, int] | None = None
    in_channels: int = 3
    chance_error: None = None  # The labels aren't counted.

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class DataSet:
    """A data set, ready for training.

    Attributes:
        name: of the data set, or of its folder.
        train: training images.
        test: test images.
        classes: their names.
        fingerprint: of all images and labels, or of their names if they are streamed, before any limit; hexadecimal.
        mean: of each channel of the training images in memory, in [0, 255].
        std: standard deviation, likewise; 1 for a channel without any.
        files: hash of each file that they came from, by its path in the folder; none where files aren't read whole.
        validation: training images that are held out, and measured alone.
    """

    name: str
    train: Split | Streamed
    test: Split | Streamed
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    validation: Split | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width; None where images differ in them."""
        return self.train.image_size

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.in_channels


def stratified(labels: npt.NDArray[np.int64], limit: int | None, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose `limit` images, the same number of each class as far as there are, always the same ones; None is all.

    Returns:
        Their indices, ascending. A smaller limit chooses a subset of a larger one's choice.

    Raises:
        LabError: if the limit is below 1.
    """
    if limit is None:
        return np.arange(len(labels))
    if limit < 1:
        raise LabError(f"a limit on the number of images must be at least 1, got {limit}")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # Place of each image among those of its class, in the shuffled order; images with the lowest places are chosen.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(place, kind="stable")[:limit]])
