"""The batches of an epoch, from images in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from empool.lab.data.sets import Split
from empool.lab.errors import LabError
from empool.lab.study.run import derived_seed
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
    """

    def __init__(
        self,
        images: Split,
        batch_size: int,
        augment: Augment,
        normaliser: Normaliser,
        seed: int,
        together: Processes = Processes(),  # noqa: B008  # frozen
    ) -> None:
        self.images, self.batch_size, self.augment, self.normaliser, self.seed = (
            images,
            batch_size,
            augment,
            normaliser,
            seed,
        )
        self.epoch = 0  # of the batches that come next
        self.together = together
        if together.count > 1 and min(batch_size, len(images)) < 2 * together.count:
            raise LabError(
                f"{together.count} processes need batches of at least {2 * together.count} images: the batch size is "
                f"{batch_size}, and there are {len(images)} training images"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest >= 2 * self.together.count or full == 0)

    def size(self, batch: int) -> int:
        """Give the number of images in a batch, those of all processes."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", self.epoch))
        device = self.images.labels.device
        order = torch.randperm(len(self.images), generator=generator).to(device)
        draws = Draws.sample(self.augment, len(self.images), generator).to(device)
        for batch in range(len(self)):
            end = min((batch + 1) * self.batch_size, len(order))
            part = slice(batch * self.batch_size + self.together.rank, end, self.together.count)
            index = order[part]
            yield self.normaliser.augmented(self.images.images, index, draws[part]), self.images.labels[index]
