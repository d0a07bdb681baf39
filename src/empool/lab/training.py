"""One run: train a network, test it, and leave a result or a checkpoint to go on from."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.nn import functional as F

from empool import models
from empool.lab import augment, processes, provenance, signals
from empool.lab.augment import Augment, Draws, Normaliser
from empool.lab.checkpoint import LAST, PREVIOUS, Checkpoints, first_line, newest
from empool.lab.data import Data, DataSet, Split
from empool.lab.errors import LabError
from empool.lab.files import read_json, write_json, write_text
from empool.lab.metrics import Scores, Tally
from empool.lab.processes import Processes
from empool.lab.run import RunConfig, difference
from empool.lab.schedule import PSchedule

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
# between.
Row = dict[str, float | None]
Watch = Callable[[float, Row | None], None]  # epochs done, and at the end of an epoch its row


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive the seed of one stream of random numbers; a stream a purpose and epoch needs no state to resume."""
    digest = hashlib.blake2b(f"{seed} {purpose} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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
        self.watch = watch
        self.together = processes.connected()
        self.history: list[Row] = []
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
        if self.history and _diverged(self.history[-1]):
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
        self.together.add_up(self.totals)
        images_seen = self.images_seen
        if self.together.count > 1:
            images_seen = sum(self.batches.size(batch) for batch in range(len(self.batches)))
        loss, errors = (self.totals / images_seen).tolist()  # Waits for the device: the clock is read after it.
        seconds = time.perf_counter() - self.began
        epoch, epochs = self.current_epoch + 1, self.config.recipe.epochs
        diverged = not math.isfinite(loss)
        test_loss, test_error, test_ece, test_top5_error = None, None, None, None
        fitted_loss, fitted_error = None, None
        last = diverged or epoch == epochs
        if last or epoch % math.ceil(epochs / TESTS) == 0:
            test_loss, test_error, test_ece, test_top5_error = self.test(self.test_images)
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
            "seconds": seconds,
            "test_seconds": time.perf_counter() - self.began - seconds,
        }
        self.history.append(row)
        self.watch(epoch, row)
        if diverged:
            self.trainer.should_stop = True

    @torch.no_grad()
    def test(self, images: Sized) -> Scores:
        """Score the predictions for images as they are, in the testing phase."""
        self.network.eval()
        self.together.share_buffers(self.network)
        tally = Tally(self.num_classes, self.totals.device)
        for batch, labels in self.plain_batches(images):
            tally.add_logits(self(batch), labels)
        self.network.train()
        tally.add_up(self.together)
        return tally.scores()

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
        checkpoint["config"] = self.config.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the metrics so far."""
        self.history = checkpoint["history"]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of normalised images, in the run's precision and memory format."""
        if not self.config.channels_last:
            images = images.contiguous()
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.config.device, dtype=torch.bfloat16, enabled=half):
            logits: Tensor = self.network(images)
        return logits.float()


class _LastCheckpoint(Checkpoint):
    """Write metrics.csv and last.ckpt after every epoch.

    A process killed between the two does the epoch again and writes the same row; the other way round, the last row
    could be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Experiment)
        if trainer.is_global_zero:
            text = io.StringIO()
            rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
            rows.writeheader()
            rows.writerows(pl_module.history)
            write_text(self.folder / "metrics.csv", text.getvalue())
        trainer.save_checkpoint(self.folder / LAST)  # The first process writes it, but all meet there.


class _EndTogether(pl.Callback):
    """Ends all processes after the same step, when SIGTERM came to any of them.

    Lightning's own handler tells the others as soon as it is called, when they may be waiting for something else.
    """

    def __init__(self, together: Processes, term: signals.Deferred) -> None:
        self.together, self.term = together, term

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.term.take_over()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.meet()

    def meet(self) -> None:
        """Raise `SIGTERMException` in all of them, or in none."""
        self.term.came = self.together.any(self.term.came)
        if self.term.came:
            raise SIGTERMException


def fit(
    config: RunConfig,
    data: Data,
    directory: Path,
    watch: Watch = lambda epochs, row: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do a run, or what is left of it, and write its result.

    The error that counts is that of the last epoch. On the CPU the same run gives the same result, bit for bit, with
    the same number of threads, interrupted or not.

    Args:
        config: the run.
        data: its data set.
        directory: of the study.
        watch: is told of progress.
        say: takes a line on what went wrong and could be mended.

    Returns:
        The record, as in results.json.

    Raises:
        LabError: if the run's folder holds another run, or no checkpoint that is whole, or a process that loads images
            died.
        OSError: if a file cannot be written, with its name.
        KeyboardInterrupt: as it came; what is done up to the last whole epoch stays. SIGTERM is `signals.Terminated`,
            raised after the step, or the tests and the checkpoint of an epoch's end, that it came in.
    """
    folder = config.folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    together = processes.connected()
    checkpoint = together.tell(_checkpoint(config, folder, say) if together.rank == 0 else None)
    torch.manual_seed(derived_seed(config.seed, "weights"))
    experiment = make_experiment(config, data, watch)
    _train(experiment, folder, checkpoint)
    record = _record(experiment)
    if together.rank == 0:
        (folder / PREVIOUS).unlink(missing_ok=True)
        write_json(folder / "result.json", record)
    return record


def make_experiment(config: RunConfig, data: Data, watch: Watch) -> Experiment:
    """Make a run's network and put it together with its data."""
    kind = Experiment
    if models.network(config.model).streams:
        from empool.lab.streaming import Streaming  # Needs packages that no other network does.

        kind = Streaming
    return kind(config, make_network(config, data), data, watch)


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


def _checkpoint(config: RunConfig, folder: Path, say: Callable[[str], None]) -> Path | None:
    """Find the checkpoint to go on from, if there is one, after checking that the folder is this run's."""
    written = folder / "config.json"
    ours = {**config.settings(), "pooling": config.pooling, "seed": config.seed}
    if written.exists():
        other = difference(ours, {name: value for name, value in read_json(written).items() if name != "device"})
        if other is not None:
            raise LabError(f"{folder} holds another run ({other}); choose another --out, or delete that folder")
    else:
        write_json(written, config.to_json())
    return newest(folder, say)


def _train(experiment: Experiment, folder: Path, checkpoint: Path | None) -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    together = experiment.together
    dropped = isinstance(experiment.network, models.StochasticDepth)  # Blocks that are, have no gradient.
    on_interrupt = signal.getsignal(signal.SIGINT)
    with signals.deferred() as term, warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # Advice on data loader workers and devices left unused.
        # Lightning's own use of what PyTorch deprecates; delete when lightning > 2.6 is required.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        ending = _EndTogether(together, term)
        trainer = pl.Trainer(
            accelerator="gpu" if experiment.config.device == "cuda" else "cpu",
            devices=together.local_count,
            num_nodes=together.count // together.local_count,
            strategy=DDPStrategy(find_unused_parameters=dropped) if together.count > 1 else "auto",
            sync_batchnorm=experiment.config.sync_batchnorm,
            max_epochs=experiment.config.recipe.epochs,
            callbacks=[ending, *_p_schedule(experiment.config), _LastCheckpoint(folder)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=experiment.config.device == "cuda",
            plugins=[Checkpoints(), *_environment(together)],
            default_root_dir=folder,
        )
        try:
            trainer.fit(experiment, ckpt_path=checkpoint, weights_only=True)
            ending.meet()
        except SIGTERMException:
            pass  # The context raises it as ours.
        except SystemExit as stopped:
            # Lightning answers Ctrl-C by leaving the process and ignoring further ones; the study decides that here.
            if not isinstance(stopped.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if not first_line(error).startswith("DataLoader worker"):
                raise
            raise LabError(
                f"a process that loads images died, often for want of memory ({first_line(error)}): start again, and "
                "the run goes on from its last whole epoch"
            ) from error


def _environment(together: Processes) -> list[Any]:
    """Tell Lightning who started the processes, which it would take to be Slurm wherever there are traces of it."""
    if together.count == 1:
        return [LightningEnvironment()]
    # Lightning's own requeueing saves the middle of an epoch, which cannot be gone on from exactly.
    return [] if "RANK" in os.environ else [SLURMEnvironment(auto_requeue=False)]


def _p_schedule(config: RunConfig) -> list[PSchedule]:
    p = own_p(config.pooling)
    return [] if p is None or config.p_schedule == RunConfig.p_schedule else [PSchedule(config.p_schedule, p)]


def own_p(pooling: str) -> float | None:
    """Give the p of a pooling, which `PSchedule` can schedule, or None if it has none."""
    p: float | None = getattr(models.read_pooling(pooling), "p", None)
    return p


def _record(experiment: Experiment) -> dict[str, Any]:
    config, history = experiment.config, experiment.history
    last = history[-1]
    losses = {"test_loss": finite(last["test_loss"]), "train_loss": finite(last["fitted_loss"])}
    # A checkpoint may be of a version that computed no ECE.
    calibration = {"test_nll": losses["test_loss"], "test_ece": finite(last.get("test_ece"))}
    converged = None not in losses.values() and finite(last["train_loss"]) is not None
    seconds = [row["seconds"] or 0.0 for row in history]
    return {
        "data": config.data,
        "model": config.model,
        "pooling": config.pooling,
        "p": own_p(config.pooling),
        "seed": config.seed,
        "epochs": config.recipe.epochs,
        "batch_size": config.recipe.batch_size,
        "train_limit": config.train_limit,
        "test_limit": config.test_limit,
        "augment": config.recipe.augment,
        "p_schedule": config.p_schedule,
        "test_error": last["test_error"],
        "test_top5_error": last.get("test_top5_error"),
        "train_error": last["fitted_error"],
        **losses,
        **calibration,
        "converged": converged,
        "seconds": sum(seconds) + sum(row["test_seconds"] or 0.0 for row in history),
        "images_per_second": len(history) * len(experiment.batches.images) / sum(seconds),
        "device": provenance.device_name(config.device),
        "threads": torch.get_num_threads(),
        "processes": experiment.together.count,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "parameters": sum(parameter.numel() for parameter in experiment.network.parameters()),
    }


def finite(value: float | None) -> float | None:
    """Give a number that JSON has, or None."""
    return value if value is not None and math.isfinite(value) else None


def _diverged(row: Row) -> bool:
    return finite(row["train_loss"]) is None
