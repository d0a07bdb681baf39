"""The batches of an epoch: from images that are on the device already, or are loaded when their turn comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from empool.lab.data.sets import Split, Streamed
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.train.augment import Augment, Draws, Normaliser
from empool.lab.train.processes import Processes


class Batches:
    """An epoch's batches, already on the device; the same for every pooling.

    Args:
        images: training images and labels, on the device.
        batch_size: images a batch; the last batch is smaller, and left out if it is a single image (which batch
            normalisation cannot take).
        augment: random crop and mirror.
        normaliser: of the data set.
        seed: of the run.
        together: each of these processes takes its share of every batch; a last batch is left out if that would be a
            single image.
        drop_last: leave a smaller last batch out.
    """

    def __init__(
        self,
        images: Split,
        batch_size: int,
        augment: Augment,
        normaliser: Normaliser,
        seed: int,
        together: Processes = Processes(),  # noqa: B008  # frozen
        *,
        drop_last: bool = False,
    ) -> None:
        self.images, self.batch_size, self.augment, self.normaliser = images, batch_size, augment, normaliser
        self.seed, self.together, self.drop_last = seed, together, drop_last
        self.epoch = 0  # of the batches that come next
        if together.count > 1 and min(batch_size, len(images)) < 2 * together.count:
            raise LabError(
                f"{together.count} processes need batches of at least {2 * together.count} images: the batch size is "
                f"{batch_size}, and there are {len(images)} training images"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (full == 0 or (rest >= 2 * self.together.count and not self.drop_last))

    def size(self, batch: int) -> int:
        """Give the number of images in a batch, those of all processes."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
        device = self.images.labels.device
        order = torch.randperm(len(self.images), generator=generator).to(device)
        draws = Draws.sample(self.augment, len(self.images), generator)
        if self.augment.alternating:  # Which side an image shows first; from then on it shows one after the other.
            first = torch.Generator().manual_seed(derived_seed(self.seed, "mirror"))
            sides = torch.rand(len(self.images), generator=first) < 0.5
            draws = Draws(draws.shift, (sides ^ bool(self.epoch % 2))[order.cpu()])
        draws = draws.to(device)
        for batch in range(len(self)):
            end = min((batch + 1) * self.batch_size, len(order))
            part = slice(batch * self.batch_size + self.together.rank, end, self.together.count)
            index = order[part]
            yield self._augmented(index, draws[part]), self.images.labels[index]

    def _augmented(self, index: Tensor, draws: Draws) -> Tensor:
        return self.normaliser.augmented(self.images.images, index, draws, reflect=self.augment.reflect)


class Stream:
    """Batches of images that are loaded when their turn comes, on the device.

    Args:
        images: to be loaded.
        config: the run.
        training: whether the images are shuffled, and an incomplete last batch left out.

    Raises:
        LabError: if there is not one batch.
    """

    def __init__(self, images: Streamed, config: RunConfig, *, training: bool) -> None:
        size = config.training.batch_size
        if training and len(images) < size:
            raise LabError(f"{len(images)} training images are no batch of {size}: give a --batch-size")
        self.images, self.config, self.training, self.epoch = images, config, training, 0
        self.view: Any = images.view(config, training)
        self.generator = torch.Generator()  # The default one belongs to the draws of the network.
        self.loader: DataLoader[Any] = DataLoader(
            self.view,
            batch_size=size,
            shuffle=training,
            drop_last=training,
            num_workers=min(8, os.cpu_count() or 1) if config.workers is None else config.workers,
            pin_memory=config.device == "cuda",
            generator=self.generator,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def size(self, batch: int) -> int:
        """Give the number of images in a batch."""
        return self.config.training.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if hasattr(self.view, "epoch"):
            self.view.epoch = self.epoch  # Workers, started below, take it with them.
        self.generator.manual_seed(derived_seed(self.config.seed, "order", self.epoch))
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        try:
            for images, labels in self.loader:
                images = images.to(self.config.device, non_blocking=True)
                yield images.contiguous(memory_format=layout), labels.to(self.config.device, non_blocking=True)
        except LabError as error:
            # A worker's error arrives with its traceback in its message.
            raise LabError(str(error).rpartition(f"{LabError.__name__}: ")[2].strip()) from None
