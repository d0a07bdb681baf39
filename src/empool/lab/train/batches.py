"""The batches of an epoch: from images on the device, cropped and mirrored there, or loaded when their turn comes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from empool.lab.data.sets import Split, Streamed
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.train.processes import ALONE, Processes


@dataclass(frozen=True)
class Augment:
    """Random crop and mirror."""

    pad: int = 0  # pixels of padding on every side before a crop of the original size; 0 crops nothing
    mirror: bool = False  # whether half of the images are mirrored, left to right
    reflect: bool = False  # pad with the image's reflection, in place of the mean
    alternating: bool = False  # mirror an image in every other epoch, in place of half of them at random

    def drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw for `count` images rows and columns in [-pad, pad] ``(N, 2)``, and which are mirrored ``(N,)``."""
        shift = torch.randint(-self.pad, self.pad + 1, (count, 2), generator=generator)
        return shift, torch.rand(count, generator=generator) < (0.5 if self.mirror else 0.0)


def parse(spelling: str) -> Augment:
    """Read "none", or "crop:P" or "shift:P", "mirror" or "alternating-mirror", or one of each with a comma between."""
    if spelling == "none":
        return Augment()
    match = re.fullmatch(r"(?:(crop|shift):([1-9]\d?))?(,?)((?:alternating-)?mirror)?", spelling, re.ASCII)
    if not match or not spelling or bool(match[3]) != bool(match[2] and match[4]):
        raise ValueError(f'augment: expected none, crop:P, mirror or crop:P,mirror, got "{spelling}"')
    mirror = match[4] or ""
    return Augment(int(match[2] or 0), bool(mirror), match[1] == "shift", mirror.startswith("alternating"))


class Normaliser:
    """Make network input of stored images, by mean and standard deviation in [0, 255]: 0 and 1 in each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device | str) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self.scale = 1 / torch.tensor(std, dtype=torch.float32, device=device)

    def plain(self, images: Tensor) -> Tensor:
        """Normalise images ``(N, H, W, C)`` uint8 to ``(N, C, H, W)`` float32, channels last."""
        return self._normal(images.flatten(2)).view(images.shape).permute(0, 3, 1, 2)

    def augmented(
        self,
        images: Tensor,  # (M, H, W, C) uint8
        index: Tensor,  # (N,), which of them
        shift: Tensor,  # (N, 2) int64, rows and columns
        mirrored: Tensor,  # (N,) bool
        *,
        reflect: bool = False,  # what comes in at the border is the image's reflection, in place of 0, the mean
    ) -> Tensor:
        """Normalise the images chosen, shifted and mirrored, to ``(N, C, H, W)`` float32, channels last."""
        # Whole rows are copied first, since picking pixels by their place in the data set takes five times as long.
        height, width, channels = images.shape[1:]
        rows = torch.arange(height, device=images.device) + shift[:, :1]  # (N, H)
        columns = torch.arange(width, device=images.device).expand(len(index), width)
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + shift[:, 1:]  # (N, W)
        if reflect:
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        row = index[:, None] * height + rows.clamp(0, height - 1)  # (N, H)
        chosen = images.reshape(-1, width * channels).index_select(0, row.flatten()).view(len(index), height, -1)
        value = columns.clamp(0, width - 1)[:, :, None] * channels + torch.arange(channels, device=images.device)
        normal = self._normal(chosen.gather(2, value.flatten(1)[:, None].expand_as(chosen)))  # (N, H, W*C)
        if not reflect:
            inside = ((columns >= 0) & (columns < width))[:, :, None].expand_as(value).flatten(1)  # (N, W*C)
            normal.mul_(inside[:, None].float()).mul_(((rows >= 0) & (rows < height))[:, :, None].float())
        return normal.view(len(index), height, width, channels).permute(0, 3, 1, 2)

    def _normal(self, rows: Tensor) -> Tensor:
        """Normalise rows ``(N, H, W*C)``: of three channels alone, the CPU's vectors would be mostly empty."""
        width = rows.shape[2] // len(self.mean)
        return rows.float().sub_(self.mean.repeat(width)).mul_(self.scale.repeat(width))


def _reflected(places: Tensor, size: int) -> Tensor:
    """Fold places beyond the ends of ``[0, size - 1]`` back at them."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def _check_size(together: Processes, batch_size: int, images: int) -> None:
    if together.count > 1 and min(batch_size, images) < 2 * together.count:
        raise LabError(
            f"{together.count} processes need batches of at least {2 * together.count} images: the batch size is "
            f"{batch_size}, and there are {images} training images"
        )


class Batches:
    """An epoch's batches, already on the device; the same for every pooling. Each process takes its share of a batch.

    The last batch is smaller. It is left out if it is a single image, which batch normalisation cannot take, or where
    the recipe says ``drop_last``.
    """

    def __init__(self, images: Split, config: RunConfig, normaliser: Normaliser, together: Processes = ALONE) -> None:
        self.images, self.normaliser, self.seed, self.together = images, normaliser, config.seed, together
        self.batch_size, self.augment = config.training.batch_size, parse(config.training.augment)
        self.drop_last = getattr(config.training, "drop_last", False)
        self.epoch = 0  # of the batches that come next
        _check_size(together, self.batch_size, len(images))

    def __len__(self) -> int:
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (full == 0 or (rest >= 2 * self.together.count and not self.drop_last))

    def size(self, batch: int) -> int:
        """Give the number of images in a batch, those of all processes."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
        device, count = self.images.labels.device, len(self.images)
        order = torch.randperm(count, generator=generator).to(device)
        shift, mirrored = self.augment.drawn(count, generator)
        if self.augment.alternating:  # Which side an image shows first; from then on it shows one after the other.
            first = torch.Generator().manual_seed(derived_seed(self.seed, "mirror"))
            mirrored = ((torch.rand(count, generator=first) < 0.5) ^ bool(self.epoch % 2))[order.cpu()]
        shift, mirrored = shift.to(device), mirrored.to(device)
        for batch in range(len(self)):
            first_image = batch * self.batch_size
            part = slice(first_image + self.together.rank, first_image + self.size(batch), self.together.count)
            draws = order[part], shift[part], mirrored[part]
            images = self.normaliser.augmented(self.images.images, *draws, reflect=self.augment.reflect)
            yield images, self.images.labels[order[part]]


class _Shares(BatchSampler):
    """This process's share of each whole batch."""

    def __init__(self, order: Iterable[int], size: int, together: Processes) -> None:
        super().__init__(order, size, drop_last=True)
        self.together = together

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.together.rank :: self.together.count] for batch in super().__iter__())


class Stream:
    """Batches of images that are loaded when their turn comes, on the device; each process loads its share.

    In training they are shuffled, and an incomplete last batch is left out.
    """

    def __init__(self, images: Streamed, config: RunConfig, *, training: bool, together: Processes = ALONE) -> None:
        size = config.training.batch_size
        if training and len(images) < size:
            raise LabError(f"{len(images)} training images are no batch of {size}: give a --batch-size")
        _check_size(together, size, len(images))
        self.images, self.config, self.epoch = images, config, 0
        self.view: Any = images.view(config, training)
        self.generator = torch.Generator()  # The default one belongs to the draws of the network.
        if training:
            share: Any = _Shares(RandomSampler(range(len(images)), generator=self.generator), size, together)
        else:
            share = BatchSampler(range(together.rank, len(images), together.count), size, drop_last=False)
        self.loader: DataLoader[Any] = DataLoader(
            self.view,
            batch_sampler=share,
            num_workers=min(8, os.cpu_count() or 1) if config.workers is None else config.workers,
            pin_memory=config.device == "cuda",
            generator=self.generator,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def size(self, batch: int) -> int:
        """Give the number of images in a batch, those of all processes."""
        return self.config.training.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if hasattr(self.view, "epoch"):
            self.view.epoch = self.epoch  # Workers, started below, take it with them.
        self.generator.manual_seed(derived_seed(self.config.seed, "order", self.epoch))
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        try:
            for images, labels in self.loader:
                images = images.to(self.config.device, torch.float32, non_blocking=True)
                yield images.contiguous(memory_format=layout), labels.to(self.config.device, non_blocking=True)
        except LabError as error:
            kind = type(error)  # A worker's error arrives with its traceback in its message.
            raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from error
