"""Training on images that are loaded when their turn comes."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from timm.data import create_loader
from torch import Tensor

from empool.lab.data.imagenet import Images, ShardsView, Streamed
from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.train.experiment import Experiment
from empool.models import ImageNetRecipe


class Stream:
    """Batches of a split, on the device, loaded anew at every pass.

    Args:
        images: the split.
        config: the run.
        workers: processes that read and decode.
        training: whether the images are shuffled and augmented, and an incomplete last batch left out.

    Raises:
        LabError: if there is not one batch.
    """

    def __init__(self, images: Images, config: RunConfig, workers: int, *, training: bool) -> None:
        recipe = config.recipe
        assert isinstance(recipe, ImageNetRecipe)
        if training and len(images) < recipe.batch_size:
            raise LabError(f"{len(images)} training images are no batch of {recipe.batch_size}: give a --batch-size")
        resized, *others = recipe.augment.split(",")
        jitter = [float(part.removeprefix("jitter:")) for part in others if part != "mirror"]
        self.images, self.channels_last = images, config.channels_last
        self.seed, self.epoch = config.seed, 0
        self.view = images.view(config, training=training)
        if isinstance(self.view, ShardsView):
            self.view.reader.set_loader_cfg(num_workers=workers)
        self.loader = create_loader(
            self.view,
            input_size=recipe.image_size,
            batch_size=recipe.batch_size,
            is_training=training,
            no_aug=resized == "none",
            hflip=0.5 * ("mirror" in others),
            color_jitter=jitter[0] if jitter else None,
            interpolation="bilinear",
            crop_pct=recipe.test_crop,
            num_workers=workers,
            pin_memory=config.device == "cuda",
            device=torch.device(config.device),
            persistent_workers=False,
        )
        # The default generator belongs to the draws of the network.
        self.generator = torch.Generator()
        loader = self.loader.loader
        loader.generator = self.generator
        if hasattr(loader.sampler, "generator"):
            loader.sampler.generator = self.generator

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.view.epoch = self.epoch  # type: ignore[attr-defined]  # Workers, started below, take it with them.
        self.generator.manual_seed(derived_seed(self.seed, "order", self.epoch))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        try:
            for images, labels in self.loader:
                yield images.contiguous(memory_format=layout), labels
        except LabError as error:
            # A worker's error arrives with its traceback in its message.
            raise LabError(str(error).rpartition(f"{LabError.__name__}: ")[2].strip()) from None


class Streaming(Experiment):
    """A network and images that are loaded when their turn comes, as Lightning trains them."""

    def take(self, data: Data) -> None:
        """Make the loaders."""
        assert isinstance(data, Streamed)
        if self.together.count > 1:
            raise LabError(f"{self.config.model} streams its images, and those are not divided among processes yet")
        self.workers = data.workers
        self.batches = Stream(data.train, self.config, data.workers, training=True)
        self.test_images = data.test

    def plain_batches(self, images: Sized) -> Iterator[tuple[Tensor, Tensor]]:
        """Load images resized and cropped in the middle, and their labels."""
        return iter(Stream(images, self.config, self.workers, training=False))  # type: ignore[arg-type]
