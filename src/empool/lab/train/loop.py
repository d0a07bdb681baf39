"""One run from beginning to end: train a network, test it, and leave a result or a checkpoint to go on from."""

from __future__ import annotations

import base64
import csv
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from empool import models
from empool.ensemble import set_p
from empool.lab import provenance
from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError
from empool.lab.files import replacing, write_json
from empool.lab.study.run import RunConfig, derived_seed, difference
from empool.lab.train import checkpoint as checkpoints
from empool.lab.train import processes, schedule, signals
from empool.lab.train.device import computing, keep_freed
from empool.lab.train.experiment import Experiment, finite
from empool.lab.train.optimise import Optimiser

COLUMNS = (
    *("epoch", "lr", "train_loss", "train_error"),
    *("test_loss", "test_error", "test_ece", "test_top5_error", "validation_error", "seconds"),
)
_SEEDED = ("weights", "order of epoch 1", "draws of epoch 1")  # by a run's seed; later epochs as `derived_seed` says
TESTS = 20  # times that a long run is tested; its last epoch always is

# A row of metrics.csv, and what the record takes from the last one: the seconds that testing took, and the "fitted"
# loss and error, on the training images as they are and in inference mode. Losses are mean cross entropies, which is
# the negative log-likelihood (NLL); errors and the expected calibration error (ECE) are percentages. The training
# columns are over the epoch's batches as they came: augmented, in training mode. The other columns are None in
# between. After the last epoch "reliability" has the bins of the calibration error, and "correct" which test images
# are predicted rightly, a bit an image, in base64.
Row = dict[str, Any]
Watch = Callable[[float, Row | None], None]  # epochs done, and at the end of an epoch its row


class _Run:
    """A run under way.

    Its recipe may have more than `Recipe` says: ``label_smoothing``; ``reduction``, "sum" in place of "mean", of the
    loss over a batch; ``begin_epoch(network, epoch)``; and what `Optimiser` knows of.
    """

    def __init__(self, experiment: Experiment, watch: Watch, term: list[int]) -> None:
        self.experiment, self.watch, self.term = experiment, watch, term
        self.config, self.together, self.batches = experiment.config, experiment.together, experiment.batches
        self.recipe: Any = self.config.training
        self.smoothing: float = getattr(self.recipe, "label_smoothing", 0.0)
        self.reduction: str = getattr(self.recipe, "reduction", "mean")
        self.optimiser = Optimiser(experiment.network, self.recipe, len(self.batches))
        self.history: list[Row] = []  # so far
        # What began the run, and what went on with it and is not the same; each with the first epoch that it did.
        self.origins = [{"epoch": 1, **provenance.origin(self.config.device, self.together.count)}]
        self.schedule = schedule.parse(self.config.p_schedule)
        # loss, errors; read once an epoch
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.config.device)

    def begin(self, found: dict[str, Any] | None) -> None:
        """Take the weights as they are, or those of a checkpoint."""
        if found is None:
            self.experiment.prepare()
        else:
            self.experiment.load_state_dict(found["state_dict"])
        self.optimiser.start()
        if self.config.sync_batchnorm and self.together.count > 1:
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            self.experiment.network = convert(self.experiment.network)
        self.through: nn.Module = self.experiment.network
        if self.together.count > 1:
            self.through = nn.parallel.DistributedDataParallel(
                self.experiment.network,
                device_ids=[self.together.local_rank] if self.config.device == "cuda" else None,
                # Blocks that are dropped have no gradient.
                find_unused_parameters=isinstance(self.experiment.network, models.StochasticDepth),
            )
            processes.wrapped.add(self.through)
        if found is not None:
            self.optimiser.load_state_dict(found["optimizer_states"][0])
            self.history, before = found["history"], found["origins"]
            now = {**self.origins[-1], "epoch": len(self.history) + 1}
            same = {**now, "epoch": before[-1]["epoch"]} == before[-1]
            self.origins = before if same or self.ended else [*before, now]

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or the loss is no number."""
        done = len(self.history)
        return done == self.recipe.epochs or (done > 0 and finite(self.history[-1]["train_loss"]) is None)

    def checkpoint(self) -> dict[str, Any]:
        """Give what the run goes on from."""
        return {
            "state_dict": self.experiment.state_dict(),
            "optimizer_states": [self.optimiser.state_dict()],
            "history": self.history,
            "origins": self.origins,
            "config": self.config.to_json(),
        }

    def meet(self) -> None:
        """Raise `signals.Terminated` in all processes, or in none, when SIGTERM came to any of them."""
        if self.together.any(bool(self.term)):
            raise signals.Terminated

    def epoch(self) -> None:
        """Train an epoch, test if it is time to, and add a row to the history."""
        number, rank = len(self.history), self.together.rank
        # The default generators' (draws, dropout); the order of the images is seeded beside it.
        torch.manual_seed(derived_seed(self.config.seed, f"draws {rank}" if rank else "draws", number))
        self.batches.epoch = number
        if hasattr(self.recipe, "begin_epoch"):
            self.recipe.begin_epoch(self.experiment.network, number)
        self.totals.zero_()
        images_seen = 0
        began = time.perf_counter()
        for batch, (images, labels) in enumerate(self.batches):
            self.meet()
            self._step(number, batch, images, labels)
            images_seen += len(labels)
            self.watch(number + (batch + 1) / len(self.batches), None)
        self._set_p(number + 1.0)
        sums = torch.cat((self.totals, self.totals.new_tensor([images_seen])))
        self.together.add_up(sums)
        loss, errors, images_seen = sums.tolist()  # Waits for the device: the clock is read after it.
        seconds = time.perf_counter() - began
        row: Row = {
            **dict.fromkeys(COLUMNS),
            "epoch": number + 1,
            "lr": self.optimiser.sgd.param_groups[-1]["lr"],  # Most parameters are in the last group.
            "train_loss": loss / images_seen,
            "train_error": 100 * errors / images_seen,
            **self._tests(number + 1, diverged=not math.isfinite(loss)),
            "seconds": seconds,
            "images_per_second": images_seen / seconds,
            "test_seconds": time.perf_counter() - began - seconds,
        }
        self.history.append(row)
        self.watch(number + 1, row)

    def _step(self, epoch: int, batch: int, images: Tensor, labels: Tensor) -> None:
        step = epoch * len(self.batches) + batch
        self.optimiser.set_rate(step)
        self._set_p(epoch + batch / len(self.batches))
        logits = self.experiment(images, self.through)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction=self.reduction)
        with torch.no_grad():
            plain = loss * len(labels)
            if self.reduction == "sum" or self.smoothing:
                plain = F.cross_entropy(logits, labels, reduction="sum")
            self.totals += torch.stack((plain, (logits.argmax(1) != labels).sum()))
        if self.together.count > 1:
            # The mean over processes, which is to come, of these is the mean, or the sum, over the whole batch.
            share = 1 if self.reduction == "sum" else len(labels) / self.batches.size(batch)
            loss = loss * (share * self.together.count)
        self.optimiser.sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step(step)

    def _set_p(self, epoch: float) -> None:
        if self.config.p is not None and self.schedule.kind != "constant":
            set_p(self.experiment, self.schedule.value(self.config.p, epoch, self.recipe.epochs))

    def _tests(self, epoch: int, *, diverged: bool) -> Row:
        """Test after an epoch, if it is time to."""
        experiment, epochs = self.experiment, self.recipe.epochs
        last = diverged or epoch == epochs
        row: Row = {}
        if last or epoch % math.ceil(epochs / TESTS) == 0:
            tested = experiment.tally(experiment.test_images)
            row["test_loss"], row["test_error"], row["test_ece"], row["test_top5_error"] = tested.scores()
            if experiment.held_out is not None:
                row["validation_loss"], row["validation_error"], *_ = experiment.tally(experiment.held_out).scores()
        if last:
            row["reliability"] = tested.reliability()
            row["correct"] = base64.b64encode(np.packbits(torch.cat(tested.rights).cpu().numpy()).tobytes()).decode()
            row["fitted_loss"], row["fitted_error"], *_ = experiment.tally(self.batches.images).scores()
        return row


def fit(config: RunConfig, data: DataSet, directory: Path, watch: Watch = lambda epochs, row: None) -> dict[str, Any]:
    """Do a run, or what is left of it, and write its result.

    The error that counts is that of the last epoch. On the CPU the same run gives the same result, bit for bit, with
    the same number of threads, interrupted or not. A KeyboardInterrupt loses the epoch that it comes in, no
    other. SIGTERM is `signals.Terminated`, raised after the step, or the tests and the checkpoint of an
    epoch's end, that it came in.

    Returns:
        The record, as in results.json. What did the run (device, threads, processes, versions, commit) is what began
        it; "resumed" lists what went on with it and is not the same, each with the first epoch that it did.
    """
    if config.device == "cpu":
        keep_freed()
    folder = config.folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    together = processes.connected()
    found = None
    if together.rank == 0:
        found = _checkpoint(config, folder, together)
        write_json(folder / "config.json", config.to_json())
    found = together.tell(found)
    with computing(config), signals.deferred() as term, warnings.catch_warnings():
        # PyTorch's compiler asks for the gradient of every input of what it compiles.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        torch.manual_seed(derived_seed(config.seed, "weights"))
        run = _Run(Experiment(config, data), watch, term)
        run.begin(found)
        while not run.ended:
            run.epoch()
            if together.rank == 0:
                _write_metrics(folder / "metrics.csv", run.history)
                checkpoints.write(folder, run.checkpoint())
            run.meet()
        run._set_p(len(run.history))
        record = _record(run, data)
    if together.rank == 0:
        (folder / checkpoints.PREVIOUS).unlink(missing_ok=True)
        write_json(folder / "result.json", record)
    return record


def _write_metrics(path: Path, history: list[Row]) -> None:
    """Write metrics.csv, before the checkpoint: a process killed between the two does the epoch again."""
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)


def _checkpoint(config: RunConfig, folder: Path, together: processes.Processes) -> dict[str, Any] | None:
    """Read the checkpoint to go on from, if there is one, after checking that it is this run's."""
    found = checkpoints.newest(folder)
    if found is None:
        return None
    other = difference(*({**fields, "workers": None} for fields in (config.to_json(), found["config"])))
    began = found["origins"][0]["processes"]
    if other is None and began != together.count:
        other = f"processes = {began}, not {together.count}"
    if other is not None:
        raise LabError(f"{folder} holds another run ({other}): go on with that, or choose another --out")
    return found


def _record(run: _Run, data: DataSet) -> dict[str, Any]:
    config, history, last = run.config, run.history, run.history[-1]
    began, *resumed = ({**origin} for origin in run.origins)
    del began["epoch"]
    losses = {"test_loss": finite(last["test_loss"]), "train_loss": finite(last["fitted_loss"])}
    seconds = sum(row["seconds"] for row in history)
    seen = sum(row["images_per_second"] * row["seconds"] for row in history)
    size = data.train.image_size
    chosen = ("data", "model", "pooling", "p", "seed", "train_limit", "test_limit", "precision", "p_schedule")
    return {
        **{name: getattr(config, name) for name in chosen},
        **{name: getattr(config.training, name) for name in ("epochs", "batch_size", "augment")},
        "train_images": len(run.batches.images),
        "test_images": len(run.experiment.test_images),
        "classes": run.experiment.num_classes,
        "image_shape": None if size is None else [data.train.in_channels, *size],
        "chance_error": data.train.chance_error,
        "test_error": last["test_error"],
        "train_error": last["fitted_error"],
        **losses,
        "test_nll": losses["test_loss"],
        **{name: last[name] for name in ("test_top5_error", "validation_error", "correct")},
        **{name: finite(last.get(name)) for name in ("test_ece", "validation_loss")},
        "calibration": last["reliability"],
        "converged": None not in losses.values() and finite(last["train_loss"]) is not None,
        "seconds": seconds + sum(row["test_seconds"] for row in history),
        "images_per_second": seen / seconds,
        **began,
        "resumed": resumed,
        "machine": provenance.machine(config.device),
        "environment": provenance.environment(),
        "seeds": {of: derived_seed(config.seed, of.split()[0]) for of in _SEEDED},
        "parameters": sum(parameter.numel() for parameter in run.experiment.network.parameters()),
    }
