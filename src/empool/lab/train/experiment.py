"""What a run trains: a network with its recipe and its data, as Lightning takes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from empool import models
from empool.lab import provenance
from empool.lab.data.sets import Data, DataSet, Split
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.train import augment, compilation, processes
from empool.lab.train.augment import Normaliser
from empool.lab.train.batches import Batches
from empool.lab.train.metrics import Scores, Tally

COLUMNS = (
    *("epoch", "lr", "train_loss", "train_error"),
    *("test_loss", "test_error", "test_ece", "test_top5_error", "seconds"),
)
TESTS = 20  # times that a long run is tested; its last epoch always is
_TEST_BATCH = 500  # images

# A row of metrics.csv, and what the record takes from the last one: the seconds that testing took, and the "fitted"
# loss and error, on the training images as they are and in the testing phase. Losses are mean cross entropies, which is
# the negative log-likelihood (NLL); errors and the expected calibration error (ECE) are percentages. The training
# columns are over the epoch's batches as they came: augmented, in the training phase. The other columns are None in
# between. After the last epoch "reliability" has the bins of the calibration error.
Row = dict[str, Any]
Watch = Callable[[float, Row | None], None]  # epochs done, and at the end of an epoch its row


class Experiment(pl.LightningModule):
    """A network, its recipe and its data, as Lightning trains them.

    Args:
        config: the run.
        network: to be trained.
        data: on any device.
        watch: is told of progress.
    """

    batches: Any  # of an epoch: sized, with the number of the epoch in `epoch` and the images behind them in `images`
    test_images: Sized

    def __init__(self, config: RunConfig, network: nn.Module, data: Data, watch: Watch) -> None:
        super().__init__()
        self.config = config
        self.network = network
        if config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # Missing in its annotations.
        if config.compile:
            compilation.compile_(network, config.device)
        self.watch = watch
        self.together = processes.connected()
        self.history: list[Row] = []
        # What began the run, and what went on with it and is not the same; each with the first epoch that it did.
        self.origins: list[dict[str, Any]] = [{"epoch": 1, **provenance.origin(config.device, self.together.count)}]
        self.take(data)
        self.num_classes = len(data.classes)
        # loss, errors; sums, read once an epoch
        self.totals = torch.zeros(2, dtype=torch.float64, device=torch.device(config.device))
        self.images_seen = 0
        self.began = 0.0

    def take(self, data: Data) -> None:
        """Put the images where the network is."""
        assert isinstance(data, DataSet)
        device, recipe = torch.device(self.config.device), self.config.recipe
        self.normaliser = Normaliser(data.mean, data.std, device)
        self.batches = Batches(
            data.train.to(device),
            recipe.batch_size,
            augment.parse(recipe.augment),
            self.normaliser,
            self.config.seed,
            self.together,
        )
        self.test_images = data.test.to(device)

    def train_dataloader(self) -> Any:
        """Give the batches; not a DataLoader, since nothing is left to load."""
        return self.batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make SGD with Nesterov momentum."""
        recipe = self.config.recipe
        return torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.rate(0),
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )

    def on_train_start(self) -> None:
        """Leave a run alone that had diverged when it was interrupted."""
        if self.history and diverged(self.history[-1]):
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Seed the epoch: default generators (draws, dropout) and the order of the images."""
        rank = self.together.rank
        torch.manual_seed(derived_seed(self.config.seed, f"draws {rank}" if rank else "draws", self.current_epoch))
        self.batches.epoch = self.current_epoch
        self.totals.zero_()
        self.images_seen = 0
        self.began = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate, a function of the step alone."""
        rate = self.config.recipe.rate(self.current_epoch + batch_idx / len(self.batches))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        with torch.no_grad():
            self.totals += torch.stack((loss * len(labels), (logits.argmax(1) != labels).sum()))
        self.images_seen += len(labels)
        if self.together.count > 1:
            # The mean over processes, which is to come, of these is the mean over the whole batch.
            loss = loss * (len(labels) * self.together.count / self.batches.size(batch_idx))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tell how far the run is."""
        self.watch(self.current_epoch + (batch_idx + 1) / len(self.batches), None)

    def on_train_epoch_end(self) -> None:
        """Read the epoch's metrics, test if it is time to, and stop a run that has diverged."""
        sums = torch.cat((self.totals, self.totals.new_tensor([self.images_seen])))
        self.together.add_up(sums)
        loss, errors, images_seen = sums.tolist()  # Waits for the device: the clock is read after it.
        loss, errors = loss / images_seen, errors / images_seen
        seconds = time.perf_counter() - self.began
        epoch, epochs = self.current_epoch + 1, self.config.recipe.epochs
        diverged = not math.isfinite(loss)
        test_loss, test_error, test_ece, test_top5_error = None, None, None, None
        fitted_loss, fitted_error, reliability = None, None, None
        last = diverged or epoch == epochs
        if last or epoch % math.ceil(epochs / TESTS) == 0:
            tested = self.tally(self.test_images)
            test_loss, test_error, test_ece, test_top5_error = tested.scores()
            reliability = tested.reliability() if last else None
        if last:
            fitted_loss, fitted_error, *_ = self.test(self.batches.images)
        row: Row = {
            "epoch": epoch,
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": loss,
            "train_error": 100 * errors,
            "test_loss": test_loss,
            "test_error": test_error,
            "test_ece": test_ece,
            "test_top5_error": test_top5_error,
            "fitted_loss": fitted_loss,
            "fitted_error": fitted_error,
            "reliability": reliability,
            "seconds": seconds,
            "images_per_second": images_seen / seconds,
            "test_seconds": time.perf_counter() - self.began - seconds,
        }
        self.history.append(row)
        self.watch(epoch, row)
        if diverged:
            self.trainer.should_stop = True

    def test(self, images: Sized) -> Scores:
        """Score the predictions for images as they are, in the testing phase."""
        return self.tally(images).scores()

    @torch.no_grad()
    def tally(self, images: Sized) -> Tally:
        """Count the predictions for images as they are, in the testing phase."""
        self.network.eval()
        self.together.share_buffers(self.network)
        tally = Tally(self.num_classes, self.totals.device)
        for batch, labels in self.plain_batches(images):
            tally.add_logits(self(batch), labels)
        self.network.train()
        tally.add_up(self.together)
        return tally

    def plain_batches(self, images: Sized) -> Iterator[tuple[Tensor, Tensor]]:
        """Give images as they are, as the network takes them, and their labels."""
        assert isinstance(images, Split)
        share, rank = self.together.count, self.together.rank
        for first in range(rank, len(images), share * _TEST_BATCH):
            part = slice(first, first + share * _TEST_BATCH, share)
            yield self.normaliser.plain(images.images[part]), images.labels[part]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics so far, and what run this is."""
        checkpoint["history"] = self.history
        checkpoint["origins"] = self.origins
        checkpoint["config"] = self.config.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the metrics so far."""
        self.history = checkpoint["history"]
        before = checkpoint.get("origins")  # A checkpoint may be of a version that wrote none.
        if before is None:
            return
        epoch = len(self.history) + 1
        now = {**self.origins[-1], "epoch": epoch}
        same = {**before[-1], "epoch": epoch} == now
        self.origins = before if same or epoch > self.config.recipe.epochs else [*before, now]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of normalised images, in the run's precision and memory format."""
        if not self.config.channels_last:
            images = images.contiguous()
        half = self.config.precision == "bfloat16"
        # Other sizes, and the testing phase, would each be compiled anew.
        compiled = self.network.training and len(images) == self.config.recipe.batch_size
        stance = compilation.stance(compiled) if self.config.compile else nullcontext()
        with stance, torch.autocast(self.config.device, dtype=torch.bfloat16, enabled=half):
            logits: Tensor = self.network(images)
        return logits.float()


def make_network(config: RunConfig, data: Data) -> nn.Module:
    """Make a run's network; options of its own come from the fields of its recipe, the image size from the data.

    Raises:
        ValueError: if a field is out of range.
    """
    own = models.network(config.model).options()
    options = {name: getattr(config.recipe, name) for name in own if hasattr(config.recipe, name)}
    if "image_size" in own:
        options["image_size"] = data.image_size
    return models.create(
        config.model,
        num_classes=len(data.classes),
        pooling=models.read_pooling(config.pooling),
        in_channels=data.in_channels,
        **options,
    )


def finite(value: float | None) -> float | None:
    """Give a number that JSON has, or None."""
    return value if value is not None and math.isfinite(value) else None


def diverged(row: Row) -> bool:
    return finite(row["train_loss"]) is None
