"""What a run trains: a network with its data, on its device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from empool.lab.data.sets import DataSet, Split, Streamed
from empool.lab.errors import LabError, own_code
from empool.lab.study import networks
from empool.lab.study.run import RunConfig
from empool.lab.train import processes
from empool.lab.train.batches import Batches, Normaliser, Stream
from empool.lab.train.metrics import Tally

_TEST_BATCH = 500  # images


class Experiment(nn.Module):
    """A network and its data, in the run's precision and memory format."""

    batches: Any  # of an epoch: sized, with the number of the epoch in `epoch` and the images behind them in `images`
    test_images: Split | Streamed
    held_out: Split | None = None  # training images that are measured alone

    def __init__(self, config: RunConfig, data: DataSet) -> None:
        super().__init__()
        self.config = config
        network = self.network = make_network(config, data).to(config.device)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # Missing in its annotations.
        if config.compile:  # When it is called first, in place: names and places of its weights stay.
            network.compile(mode="reduce-overhead" if config.device == "cuda" else None, dynamic=False)
        self.together = processes.connected()
        self.num_classes = len(data.classes)
        self.test_images = data.test.to(config.device) if isinstance(data.test, Split) else data.test
        if not isinstance(data.train, Split):
            self.batches = Stream(data.train, config, training=True, together=self.together)
            return
        if data.validation is not None:
            self.held_out = data.validation.to(config.device)
        self.normaliser = Normaliser(data.mean, data.std, config.device)
        self.batches = Batches(data.train.to(config.device), config, self.normaliser, self.together)

    def prepare(self) -> None:
        """Let a network that has a `prepare_` see training images before it is trained."""
        if hasattr(self.network, "prepare_"):
            images = self.batches.images
            if not isinstance(images, Split):
                raise LabError(f"{self.config.model} looks at images before it is trained: they must be in memory")
            cast(Any, self.network).prepare_(self.normaliser.plain(images.images[:5000]))

    @torch.no_grad()
    def tally(self, images: Split | Streamed) -> Tally:
        """Count the predictions for images as they are, in inference mode."""
        self.network.eval()
        self.together.share_buffers(self.network)
        tally = Tally(self.num_classes, self.config.device)
        for batch, labels in self.plain_batches(images):
            tally.add_logits(self(batch), labels)
        self.network.train()
        tally.add_up(self.together)
        return tally

    def plain_batches(self, images: Split | Streamed) -> Iterator[tuple[Tensor, Tensor]]:
        """Give images as they are, as the network takes them, and their labels."""
        if not isinstance(images, Split):
            yield from Stream(images, self.config, training=False, together=self.together)
            return
        share, rank = self.together.count, self.together.rank
        for first in range(rank, len(images), share * _TEST_BATCH):
            part = slice(first, first + share * _TEST_BATCH, share)
            yield self.normaliser.plain(images.images[part]), images.labels[part]

    def forward(self, images: Tensor, through: nn.Module | None = None) -> Tensor:
        """Compute the logits of normalised images; `through` is what the network is wrapped in."""
        if not self.config.channels_last:
            images = images.contiguous()
        half = self.config.precision == "bfloat16"
        # Other sizes, and inference mode, would each be compiled anew.
        compiled = self.network.training and len(images) == self.config.training.batch_size
        plain = self.config.compile and not compiled
        stance = torch.compiler.set_stance("force_eager") if plain else nullcontext()
        with stance, torch.autocast(self.config.device, dtype=torch.bfloat16, enabled=half):
            logits: Tensor = (through or self.network)(images)
        return logits.float()


def make_network(config: RunConfig, data: DataSet) -> nn.Module:
    """Make a run's network; options of its own come from the fields of its recipe, the image size from the data."""
    own = networks.network(config.model).options()
    options = {name: getattr(config.training, name) for name in own if hasattr(config.training, name)}
    if "image_size" in own and data.train.image_size is not None:
        options["image_size"] = data.train.image_size
    made = networks.create(config.model, len(data.classes), config.layer, data.train.in_channels, **options)
    if networks.is_own(config.model):
        _try_out(made, f"--model {config.model}", data)
    return made


@torch.no_grad()
def _try_out(network: nn.Module, where: str, data: DataSet) -> None:
    """Show a user's network two blank images, of which lazy layers take their sizes, and check its logits."""
    images = torch.zeros(2, data.train.in_channels, *(data.train.image_size or (224, 224)))
    logits = own_code(f"{where}, given images {tuple(images.shape)},", network.eval(), images)
    shape, wanted = tuple(getattr(logits, "shape", ())) or type(logits).__name__, (2, len(data.classes))
    if shape != wanted:
        raise LabError(f"{where}: expected logits {wanted} of 2 images, got {shape}")
    network.train()


def finite(value: float | None) -> float | None:
    """Give a number that JSON has, or None."""
    return value if value is not None and math.isfinite(value) else None
