"""One run: train a network, test it, and leave a result or a checkpoint to go on from."""

from __future__ import annotations

import csv
import gc
import io
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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

from empool import models
from empool.lab import provenance
from empool.lab.data.sets import Data
from empool.lab.errors import LabError, first_line
from empool.lab.files import read_json, write_json, write_text
from empool.lab.study.run import RunConfig, derived_seed, difference, own_p
from empool.lab.train import compilation, memory, processes, signals
from empool.lab.train.checkpoint import LAST, PREVIOUS, Checkpoints, newest
from empool.lab.train.experiment import COLUMNS, Experiment, Row, Watch, finite, make_network
from empool.lab.train.processes import Processes
from empool.lab.train.schedule import PSchedule
from empool.lab.watch.loggers import Loggers, Telling


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
    loggers: Loggers = Loggers(),  # noqa: B008  # frozen
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
        loggers: are told of progress too, and of the record; of the first process alone.

    Returns:
        The record, as in results.json. Its device, threads, processes, versions and commit are those that the run began
        with; "resumed" lists what went on with it under others, each with the first epoch that it did.

    Raises:
        LabError: if the run's folder holds another run, one that was begun on another device or by another number of
            processes, or no checkpoint that is whole, or a process that loads images died.
        OSError: if a file cannot be written, with its name.
        KeyboardInterrupt: as it came; what is done up to the last whole epoch stays. SIGTERM is `signals.Terminated`,
            raised after the step, or the tests and the checkpoint of an epoch's end, that it came in.
    """
    if config.device == "cpu":
        memory.keep_freed()
    try:
        return _fit(config, data, directory, watch, say, loggers)
    finally:
        gc.collect()  # Lightning's cycles would keep the network and its images until the collector comes by.


def _fit(
    config: RunConfig, data: Data, directory: Path, watch: Watch, say: Callable[[str], None], loggers: Loggers
) -> dict[str, Any]:
    folder = config.folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    together = processes.connected()
    checkpoint = together.tell(_checkpoint(config, folder, together.count, say) if together.rank == 0 else None)
    compiled = compilation.complete(config.model) if config.compile else nullcontext()
    with compiled, _repeatable(config.deterministic), loggers.journal(config, directory, say) as journal:
        torch.manual_seed(derived_seed(config.seed, "weights"))
        experiment = make_experiment(config, data, watch)
        _train(experiment, folder, checkpoint, Telling(journal))
        record = _record(experiment)
        journal.end(experiment.history, record)
    if together.rank == 0:
        (folder / PREVIOUS).unlink(missing_ok=True)
        write_json(folder / "result.json", record)
    return record


@contextmanager
def _repeatable(deterministic: bool) -> Iterator[None]:
    """Undo at the end of the context what Lightning sets, and set now what has to be before CUDA starts."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def make_experiment(config: RunConfig, data: Data, watch: Watch) -> Experiment:
    """Make a run's network and put it together with its data."""
    kind = Experiment
    if models.network(config.model).streams:
        from empool.lab.train.streaming import Streaming  # Needs packages that no other network does.

        kind = Streaming
    return kind(config, make_network(config, data), data, watch)


def _checkpoint(config: RunConfig, folder: Path, processes: int, say: Callable[[str], None]) -> Path | None:
    """Find the checkpoint to go on from, if there is one, after checking that the folder is this run's."""
    written = folder / "config.json"
    ours = {**config.settings(), "pooling": config.pooling, "seed": config.seed}
    device = None
    if written.exists():
        theirs = read_json(written)
        device = theirs.pop("device")
        if (other := difference(ours, theirs)) is not None:
            raise LabError(f"{folder} holds another run ({other}); choose another --out, or delete that folder")
    found = newest(folder, say)
    if found is None:
        if device != config.device:
            write_json(written, config.to_json())
        return None
    path, checkpoint = found
    began = checkpoint.get("origins", [{"processes": processes}])[0]["processes"]
    if config.device != device:
        raise LabError(
            f"{folder} was begun on {device}, not {config.device}: go on with --device {device}, or choose another "
            "--out"
        )
    if processes != began:
        raise LabError(
            f"{folder} was begun with {began} in the place of {processes} processes: start as many again, or choose "
            "another --out"
        )
    return path


def _train(experiment: Experiment, folder: Path, checkpoint: Path | None, *others: pl.Callback) -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    together = experiment.together
    dropped = isinstance(experiment.network, models.StochasticDepth)  # Blocks that are, have no gradient.
    on_interrupt = signal.getsignal(signal.SIGINT)
    with signals.deferred() as term, warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # Advice on data loader workers and devices left unused.
        # Lightning's own use of what PyTorch deprecates; delete when lightning > 2.6 is required.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # PyTorch's compiler asks for the gradient of every input of what it compiles.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        ending = _EndTogether(together, term)
        trainer = pl.Trainer(
            accelerator="gpu" if experiment.config.device == "cuda" else "cpu",
            devices=together.local_count,
            num_nodes=together.count // together.local_count,
            strategy=DDPStrategy(find_unused_parameters=dropped) if together.count > 1 else "auto",
            sync_batchnorm=experiment.config.sync_batchnorm,
            max_epochs=experiment.config.recipe.epochs,
            callbacks=[ending, *_p_schedule(experiment.config), *others, _LastCheckpoint(folder)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=experiment.config.device == "cuda" and not experiment.config.deterministic,
            deterministic=experiment.config.deterministic or None,
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
            if "does not have a deterministic implementation" in str(error):
                operator = first_line(error).partition(" ")[0]
                raise LabError(
                    f"--deterministic: PyTorch has no {operator} that gives the same bits each time on this device: "
                    "leave --deterministic out"
                ) from error
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


def _images_seen(row: Row, images: int) -> float:
    """Give the number of images that an epoch trained on, which may leave an incomplete batch out."""
    speed, seconds = row.get("images_per_second"), row["seconds"]
    return speed * seconds if speed and seconds else images


def _record(experiment: Experiment) -> dict[str, Any]:
    config, history = experiment.config, experiment.history
    last = history[-1]
    began, *resumed = ({**origin} for origin in experiment.origins)
    del began["epoch"]
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
        "train_images": len(experiment.batches.images),
        "test_images": len(experiment.test_images),
        "augment": config.recipe.augment,
        "p_schedule": config.p_schedule,
        "test_error": last["test_error"],
        "test_top5_error": last.get("test_top5_error"),
        "train_error": last["fitted_error"],
        **losses,
        **calibration,
        "calibration": last.get("reliability"),
        "converged": converged,
        "seconds": sum(seconds) + sum(row["test_seconds"] or 0.0 for row in history),
        "images_per_second": sum(_images_seen(row, len(experiment.batches.images)) for row in history) / sum(seconds),
        **began,
        "resumed": resumed,
        "machine": provenance.machine(config.device),
        "environment": provenance.environment(),
        "seeds": provenance.seeds(config.seed),
        "parameters": sum(parameter.numel() for parameter in experiment.network.parameters()),
    }
