"""Runs told to experiment trackers as they go: TensorBoard, MLflow and Weights & Biases, by Lightning's loggers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from empool.lab.errors import LabError
from empool.lab.experiment import Experiment, Row
from empool.lab.files import read_json, write_json
from empool.lab.run import RunConfig

NOTES = "loggers.json"  # in a run's folder: what each logger calls the run, and how many epochs it has
_METRICS = (
    *("train_loss", "train_error", "test_loss", "test_error", "test_ece", "test_top5_error"),
    *("lr", "images_per_second"),
)
_RESULTS = (
    *("test_error", "test_top5_error", "train_error", "test_loss", "train_loss", "test_nll", "test_ece"),
    *("seconds", "images_per_second"),
)
_SECRETS = ("KEY", "PASSWORD", "TOKEN", "USERNAME")
_URI = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Loggers:
    """The loggers of a study, and what the environment says of them where it was started; see `named`.

    Attributes:
        names: of the loggers.
        variables: the trackers' own, for processes elsewhere; without secrets, which every machine has to have.
    """

    names: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, directory: Path) -> None:
        """Make what the runs of a study share, before several processes would.

        Raises:
            LabError: if a tracker cannot be used.
            ModuleNotFoundError: if a package is missing.
        """
        for name in self.names:
            try:
                with _quiet():
                    _KINDS[name].prepare(self, directory)
            except (LabError, ModuleNotFoundError):
                raise
            except Exception as error:  # Each tracker has its own.
                raise LabError(f"--logger {name}: {_line(error)}") from error

    def journal(self, config: RunConfig, directory: Path, say: Callable[[str], None]) -> Journal:
        """Make the journal of a run; `say` takes a line on what could not be logged."""
        return Journal(self, config, directory, say)


def named(names: Sequence[str]) -> Loggers:
    """Choose loggers by name.

    Raises:
        LabError: for an unknown name.
        ModuleNotFoundError: for a logger whose package is not installed.
    """
    for name in names:
        if name not in _KINDS:
            raise LabError(f'--logger: expected {", ".join(_KINDS)}, got "{name}"')
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("MLFLOW_", "WANDB_")) and not name.endswith(_SECRETS)
    }
    return Loggers(tuple(dict.fromkeys(names)), variables if names else {})


class Journal:
    """What a run tells its loggers; a context, at whose end they learn how it ended.

    A logger that fails does not end the run: it is told what it lacks when the next epoch ends. So is one that the run
    did not have from its beginning.
    """

    def __init__(self, loggers: Loggers, config: RunConfig, directory: Path, say: Callable[[str], None]) -> None:
        self.loggers, self.config, self.directory, self.say = loggers, config, directory, say
        self.path = config.folder(directory) / NOTES
        self.notes: dict[str, dict[str, Any]] = {}
        if loggers.names and self.path.exists():
            self.notes = read_json(self.path)
        self.open: dict[str, _Tracker] = {}
        self.failed: set[str] = set()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = "finished" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "failed"
        for name in list(self.open):
            with self._trying(name):
                self.open.pop(name).close(ended)

    def tell(self, history: Sequence[Row]) -> None:
        """Log the epochs that a logger does not have yet."""
        for name in self.loggers.names:
            with self._trying(name):
                tracker = self._opened(name, len(history))
                for row in history[tracker.epochs :]:
                    tracker.logger.log_metrics(_numbers(row, _METRICS), step=tracker.epochs + 1)
                    tracker.flush()
                    tracker.epochs += 1
                    self._note(name, epochs=tracker.epochs)

    def end(self, history: Sequence[Row], record: Mapping[str, Any]) -> None:
        """Log the epochs that are left, and the record."""
        self.tell(history)
        for name, tracker in list(self.open.items()):
            with self._trying(name):
                tracker.end(record)

    def _opened(self, name: str, done: int) -> _Tracker:
        if name not in self.open:
            os.environ.update({k: v for k, v in self.loggers.variables.items() if k not in os.environ and k != _URI})
            # Lightning reads it from variables that Slurm sets for every process, whether they belong together or not.
            setattr(rank_zero_only, "rank", 0)  # noqa: B010  # Missing in its annotations.
            note = self.notes.setdefault(name, {})
            tracker = _KINDS[name](_Run(self.loggers, self.config, self.directory, note, done))
            self._note(name, epochs=tracker.epochs)
            self.open[name] = tracker
            tracker.logger.log_hyperparams(_parameters(self.config))
        return self.open[name]

    def _note(self, name: str, **changes: Any) -> None:
        self.notes[name].update(changes)
        write_json(self.path, self.notes)

    @contextlib.contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """Say once what a logger fails with, and open it anew the next time."""
        try:
            with _quiet():
                yield
        except ModuleNotFoundError:
            raise
        except Exception as error:  # Each tracker has its own.
            if tracker := self.open.pop(name, None):
                with contextlib.suppress(Exception):
                    tracker.close("failed")
            if name not in self.failed:
                self.say(f"--logger {name}: {_line(error)}; the run goes on, and tries it again after every epoch")
            self.failed.add(name)
        else:
            self.failed.discard(name)


class Telling(Checkpoint):
    """Tells a run's journal its epochs, before their checkpoint is written.

    A checkpoint to Lightning, which calls those alone when an epoch's row is there.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Experiment)
        self.journal.tell(pl_module.history)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Experiment)
        self.journal.tell(pl_module.history)


@dataclass(frozen=True)
class _Run:
    loggers: Loggers
    config: RunConfig
    directory: Path
    note: dict[str, Any]  # what `NOTES` says of this logger; its "id" is set here
    done: int  # epochs in the checkpoint

    @property
    def name(self) -> str:
        return f"{self.config.pooling}/{self.config.seed}"


class _Tracker(Protocol):
    """One logger of a run.

    Attributes:
        logger: Lightning's.
        epochs: that it has.
    """

    logger: Any
    epochs: int

    def __init__(self, run: _Run) -> None:
        """Begin, or go on where `run.note` says."""

    @staticmethod
    def prepare(loggers: Loggers, directory: Path) -> None:
        """Make what the runs of a study share."""

    def flush(self) -> None:
        """Leave nothing of an epoch in memory."""

    def end(self, record: Mapping[str, Any]) -> None:
        """Log the record."""

    def close(self, ended: str) -> None:
        """Let go, the run being "finished", "failed" or "KILLED"."""


class _TensorBoard:
    """Writes event files into the run's folder, so that ``tensorboard --logdir DIR`` names runs by pooling and seed."""

    def __init__(self, run: _Run) -> None:
        self.config = run.config
        self.epochs = min(run.note.get("epochs", 0), run.done)
        folder = run.config.folder(run.directory)
        # Readers then leave out what a process wrote from that step on before it was killed.
        purge = {"purge_step": self.epochs + 1}
        self.logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **purge)

    @staticmethod
    def prepare(loggers: Loggers, directory: Path) -> None: ...

    def flush(self) -> None:
        self.logger.experiment.flush()

    def end(self, record: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(_parameters(self.config), _results(record), self.epochs)
        self.logger.experiment.add_text("record", f"```\n{json.dumps(record, indent=2)}\n```", self.epochs)

    def close(self, ended: str) -> None:
        self.logger.finalize("finished")  # At "success" it would write its hyperparameters into the folder once more.


class _MLflow:
    """Logs to MLFLOW_TRACKING_URI, or to a SQLite file in the study's folder; an experiment is a study."""

    def __init__(self, run: _Run) -> None:
        uri, experiment = _mlflow(run.loggers, run.directory)
        client = _client(uri)
        known = run.note.get("id")
        if known is not None and not _has(client, known):
            known = None
        with _kept(_URI):  # Lightning sets it, and it would hold for all studies of this process.
            self.logger = MLFlowLogger(experiment, run_name=run.name, tracking_uri=uri, run_id=known)
            run.note["id"] = self.id = self.logger.run_id
        if known is not None:
            client.update_run(self.id, status="RUNNING")
        # An epoch's metrics are one transaction.
        self.epochs = max((metric.step for metric in client.get_metric_history(self.id, "train_loss")), default=0)

    @staticmethod
    def prepare(loggers: Loggers, directory: Path) -> None:
        uri, name = _mlflow(loggers, directory)
        client = _client(uri)
        if client.get_experiment_by_name(name) is None:
            own = None if _URI in loggers.variables else (directory / "mlartifacts").absolute().as_uri()
            client.create_experiment(name, artifact_location=own)

    def flush(self) -> None: ...

    def end(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.logger.log_metrics(_results(record), self.epochs)
        others = _flat({name: value for name, value in record.items() if name not in _RESULTS})
        self.logger.experiment.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in others.items()])

    def close(self, ended: str) -> None:
        self.logger.finalize(ended)


class _WandB:
    """Logs to Weights & Biases, offline unless the user has logged in or WANDB_MODE says so; a group is a study."""

    def __init__(self, run: _Run) -> None:
        self.epochs = run.note.get("epochs", 0)
        run.note.setdefault("id", secrets.token_hex(4))
        given = run.loggers.variables
        self.logger = WandbLogger(
            name=run.name,
            id=run.note["id"],
            save_dir=given.get("WANDB_DIR", run.directory),
            project=given.get("WANDB_PROJECT", "empool"),
            group=given.get("WANDB_RUN_GROUP", run.directory.absolute().name),
            mode=_wandb_mode(given),
        )

    @staticmethod
    def prepare(loggers: Loggers, directory: Path) -> None:
        _wandb_mode(loggers.variables)

    def flush(self) -> None: ...

    def end(self, record: Mapping[str, Any]) -> None:
        self.logger.log_metrics(_results(record), self.epochs)
        self.logger.experiment.summary.update({f"record/{name}": value for name, value in _flat(record).items()})

    def close(self, ended: str) -> None:
        # Lightning leaves it on, and the next run of this process would be taken for the same.
        self.logger.experiment.finish(exit_code=int(ended != "finished"))


_KINDS: Mapping[str, type[_Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}


def _mlflow(loggers: Loggers, directory: Path) -> tuple[str, str]:
    """Give where MLflow logs, and the name of the study's experiment."""
    where = directory.absolute()
    uri = loggers.variables.get(_URI) or f"sqlite:///{(where / 'mlflow.db').as_posix()}"
    return uri, loggers.variables.get("MLFLOW_EXPERIMENT_NAME") or where.name


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def _has(client: Any, run: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _wandb_mode(variables: Mapping[str, str]) -> str:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # It would take standard output over.
    import wandb

    return variables.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the trackers' packages deprecate among themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _kept(variable: str) -> Iterator[None]:
    """Give a variable of the environment its value back at the end of the context."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


def _parameters(config: RunConfig) -> dict[str, Any]:
    """Give what stays the same however often a run is gone on with."""
    return _flat({**config.settings(), "pooling": config.pooling, "seed": config.seed})


def _results(record: Mapping[str, Any]) -> dict[str, float]:
    return {f"final/{name}": value for name, value in _numbers(record, _RESULTS).items()}


def _numbers(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {name: values[name] for name in names if values.get(name) is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
