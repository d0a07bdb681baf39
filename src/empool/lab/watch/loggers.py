"""Runs told to TensorBoard, MLflow and Weights & Biases as they go, by Lightning's loggers.

An epoch that is done again after a kill may be logged twice.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from empool.lab.errors import LabError, first_line
from empool.lab.files import read_object, write_json
from empool.lab.study.run import RunConfig

_log = logging.getLogger(__name__)
KINDS = ("tensorboard", "mlflow", "wandb")
NOTES = "loggers.json"  # in a run's folder: what each logger calls the run, and how many epochs it has
_METRICS = (
    *("train_loss", "train_error", "test_loss", "test_error", "test_ece", "test_top5_error", "validation_error"),
    *("lr", "images_per_second"),
)
_RESULTS = (
    *("test_error", "test_top5_error", "train_error", "test_loss", "train_loss", "test_nll", "test_ece"),
    *("validation_error", "seconds", "images_per_second"),
)
_SECRETS = ("KEY", "PASSWORD", "TOKEN", "USERNAME")


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
            LabError: if a tracker can't be used.
        """
        for name in self.names:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    if name == "mlflow":
                        _mlflow(self.variables, directory)
                    if name == "wandb":
                        _wandb_mode(self.variables)
            except ModuleNotFoundError:
                raise
            except Exception as error:  # Each tracker has its own.
                raise LabError(f"--logger {name}: {first_line(error)}") from error

    def journal(self, run: RunConfig, directory: Path) -> Journal:
        """Make the journal of a run."""
        return Journal(self, run, directory)


def named(names: Sequence[str]) -> Loggers:
    """Choose loggers by name.

    Raises:
        LabError: for an unknown name.
        ModuleNotFoundError: for a logger whose package isn't installed.
    """
    for name in names:
        if name not in KINDS:
            raise LabError(f'--logger: expected {", ".join(KINDS)}, got "{name}"')
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

    A logger that fails is left out for the rest of the run. The same command tells it later what it lacks.
    """

    def __init__(self, loggers: Loggers, run: RunConfig, directory: Path) -> None:
        self.loggers, self.run, self.directory = loggers, run, directory
        self.path = run.folder(directory) / NOTES
        self.notes: dict[str, Any] = read_object(self.path) if loggers.names and self.path.exists() else {}
        self.open: dict[str, Any] = {}
        self.left = list(loggers.names)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = "finished" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "failed"
        for name in list(self.open):
            with _Trying(self, name):
                logger = self.open.pop(name)
                if name == "wandb":  # Lightning leaves it on, and the next run of this process would be the same.
                    logger.experiment.finish(exit_code=int(ended != "finished"))
                else:
                    logger.finalize(ended)

    def lacks(self, epochs: int) -> bool:
        """Tell whether one of the loggers does not have that many epochs yet."""
        return any(self.notes.get(name, {}).get("epochs", 0) < epochs for name in self.left)

    def tell(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that a logger does not have yet."""
        for name in list(self.left):
            with _Trying(self, name):
                if name not in self.open:
                    self.open[name] = self._made(name, min(self._done(name), len(history)))
                for number in range(self._done(name), len(history)):
                    self.open[name].log_metrics(_numbers(history[number], _METRICS), step=number + 1)
                    if name == "tensorboard":
                        self.open[name].experiment.flush()
                    self._note(name, epochs=number + 1)

    def end(self, history: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
        """Log the epochs that are left, and the record."""
        self.tell(history)
        results = {f"final/{name}": value for name, value in _numbers(record, _RESULTS).items()}
        for name in list(self.open):
            with _Trying(self, name):
                if name == "tensorboard":  # Its page of hyperparameters shows results that come with them.
                    self.open[name].log_hyperparams(_parameters(self.run), results, len(history))
                else:
                    self.open[name].log_metrics(results, step=len(history))

    def _done(self, name: str) -> int:
        return int(self.notes.get(name, {}).get("epochs", 0))

    def _note(self, name: str, **changes: Any) -> None:
        self.notes[name] = {**self.notes.get(name, {}), **changes}
        write_json(self.path, self.notes)

    def _made(self, name: str, done: int) -> Any:
        """Open a logger for the run, or go on where its note says."""
        from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
        from lightning_utilities.core.rank_zero import rank_zero_only

        # Lightning reads it from variables that Slurm sets for every process, whether they belong together or not.
        setattr(rank_zero_only, "rank", 0)  # noqa: B010  # Missing in its annotations.
        self._note(name, epochs=done)
        given, title = self.loggers.variables, f"{self.run.pooling}/{self.run.seed}"
        known = self.notes[name].get("id")
        logger: Any
        if name == "tensorboard":
            folder = self.run.folder(self.directory)
            # Readers then leave out what a process wrote from that step on before it was killed.
            return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=done + 1)
        if name == "mlflow":
            uri, experiment = _mlflow(given, self.directory)
            logger = MLFlowLogger(experiment, run_name=title, tracking_uri=uri, run_id=known)
            self._note(name, id=logger.run_id)
        else:
            known = known or secrets.token_hex(4)
            self._note(name, id=known)
            logger = WandbLogger(
                name=title,
                id=known,
                save_dir=given.get("WANDB_DIR", self.directory),
                project=given.get("WANDB_PROJECT", "empool"),
                group=given.get("WANDB_RUN_GROUP", self.directory.absolute().name),
                mode=_wandb_mode(given),
            )
        logger.log_hyperparams(_parameters(self.run))
        return logger


class _Trying:
    """A context in which a logger may fail: that is said, and the logger left out."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name, self.quiet = journal, name, warnings.catch_warnings()

    def __enter__(self) -> None:
        self.quiet.__enter__()
        self.uri = os.environ.get("MLFLOW_TRACKING_URI")
        warnings.simplefilter("ignore", DeprecationWarning)  # Of the trackers' packages among themselves.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.quiet.__exit__(kind, error, traceback)
        if self.uri is None:  # Lightning sets it, and it would hold for all studies of this process.
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        if not isinstance(error, Exception) or isinstance(error, ModuleNotFoundError):
            return False
        _log.warning("--logger %s: %s; the run goes on without it", self.name, first_line(error))
        self.journal.left = [name for name in self.journal.left if name != self.name]
        self.journal.open.pop(self.name, None)
        return True


def _mlflow(variables: Mapping[str, str], directory: Path) -> tuple[str, str]:
    """Give where MLflow logs, and the name of the study's experiment, which is made if it isn't there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    where = directory.absolute()
    given = variables.get("MLFLOW_TRACKING_URI")
    uri = given or f"sqlite:///{(where / 'mlflow.db').as_posix()}"
    name = variables.get("MLFLOW_EXPERIMENT_NAME") or where.name
    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=None if given else (where / "mlartifacts").as_uri())
    return uri, name


def _wandb_mode(variables: Mapping[str, str]) -> str:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # It would take standard output over.
    import wandb

    return variables.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


def _parameters(run: RunConfig) -> dict[str, Any]:
    """Give what stays the same however often a run is gone on with."""
    return _flat({**run.settings(), "pooling": run.pooling, "seed": run.seed})


def _numbers(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {name: values[name] for name in names if values.get(name) is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat
