"""TensorBoard, MLflow and Weights & Biases: where each keeps a run, and how one is gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from empool.lab.study.run import RunConfig

URI = "MLFLOW_TRACKING_URI"
_RESULTS = (
    *("test_error", "test_top5_error", "train_error", "test_loss", "train_loss", "test_nll", "test_ece"),
    *("seconds", "images_per_second"),
)


@dataclass(frozen=True)
class Run:
    """What a logger knows of a run when it begins, or goes on."""

    variables: Mapping[str, str]  # of the environment, where the study was started
    config: RunConfig
    directory: Path
    note: dict[str, Any]  # what the run's folder says of this logger; its "id" is set here
    done: int  # epochs in the checkpoint

    @property
    def name(self) -> str:
        return f"{self.config.pooling}/{self.config.seed}"


class Tracker(Protocol):
    """One logger of a run.

    Attributes:
        logger: Lightning's.
        epochs: that it has.
    """

    logger: Any
    epochs: int

    def __init__(self, run: Run) -> None:
        """Begin, or go on where `run.note` says."""

    @staticmethod
    def prepare(variables: Mapping[str, str], directory: Path) -> None:
        """Make what the runs of a study share."""

    def flush(self) -> None:
        """Leave nothing of an epoch in memory."""

    def end(self, record: Mapping[str, Any]) -> None:
        """Log the record."""

    def close(self, ended: str) -> None:
        """Let go, the run being "finished", "failed" or "KILLED"."""


class _TensorBoard:
    """Writes event files into the run's folder, so that ``tensorboard --logdir DIR`` names runs by pooling and seed."""

    def __init__(self, run: Run) -> None:
        self.config = run.config
        self.epochs = min(run.note.get("epochs", 0), run.done)
        folder = run.config.folder(run.directory)
        # Readers then leave out what a process wrote from that step on before it was killed.
        purge = {"purge_step": self.epochs + 1}
        self.logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **purge)

    @staticmethod
    def prepare(variables: Mapping[str, str], directory: Path) -> None: ...

    def flush(self) -> None:
        self.logger.experiment.flush()

    def end(self, record: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(parameters(self.config), _results(record), self.epochs)
        self.logger.experiment.add_text("record", f"```\n{json.dumps(record, indent=2)}\n```", self.epochs)

    def close(self, ended: str) -> None:
        self.logger.finalize("finished")  # At "success" it would write its hyperparameters into the folder once more.


class _MLflow:
    """Logs to MLFLOW_TRACKING_URI, or to a SQLite file in the study's folder; an experiment is a study."""

    def __init__(self, run: Run) -> None:
        uri, experiment = _mlflow(run.variables, run.directory)
        store = client(uri)
        known = run.note.get("id")
        if known is not None and not _has(store, known):
            known = None
        with _kept(URI):  # Lightning sets it, and it would hold for all studies of this process.
            self.logger = MLFlowLogger(experiment, run_name=run.name, tracking_uri=uri, run_id=known)
            run.note["id"] = self.id = self.logger.run_id
        if known is not None:
            store.update_run(self.id, status="RUNNING")
        # An epoch's metrics are one transaction.
        self.epochs = max((metric.step for metric in store.get_metric_history(self.id, "train_loss")), default=0)

    @staticmethod
    def prepare(variables: Mapping[str, str], directory: Path) -> None:
        uri, name = _mlflow(variables, directory)
        store = client(uri)
        if store.get_experiment_by_name(name) is None:
            own = None if URI in variables else (directory / "mlartifacts").absolute().as_uri()
            store.create_experiment(name, artifact_location=own)

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

    def __init__(self, run: Run) -> None:
        self.epochs = run.note.get("epochs", 0)
        run.note.setdefault("id", secrets.token_hex(4))
        given = run.variables
        self.logger = WandbLogger(
            name=run.name,
            id=run.note["id"],
            save_dir=given.get("WANDB_DIR", run.directory),
            project=given.get("WANDB_PROJECT", "empool"),
            group=given.get("WANDB_RUN_GROUP", run.directory.absolute().name),
            mode=_wandb_mode(given),
        )

    @staticmethod
    def prepare(variables: Mapping[str, str], directory: Path) -> None:
        _wandb_mode(variables)

    def flush(self) -> None: ...

    def end(self, record: Mapping[str, Any]) -> None:
        self.logger.log_metrics(_results(record), self.epochs)
        self.logger.experiment.summary.update({f"record/{name}": value for name, value in _flat(record).items()})

    def close(self, ended: str) -> None:
        # Lightning leaves it on, and the next run of this process would be taken for the same.
        self.logger.experiment.finish(exit_code=int(ended != "finished"))


TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}


def _mlflow(variables: Mapping[str, str], directory: Path) -> tuple[str, str]:
    """Give where MLflow logs, and the name of the study's experiment."""
    where = directory.absolute()
    uri = variables.get(URI) or f"sqlite:///{(where / 'mlflow.db').as_posix()}"
    return uri, variables.get("MLFLOW_EXPERIMENT_NAME") or where.name


def client(uri: str) -> Any:
    """Connect to MLflow, which makes its tables if there are none."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def _has(store: Any, run: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(store.get_run(run).info.lifecycle_stage == "active")
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
def _kept(variable: str) -> Iterator[None]:
    """Give a variable of the environment its value back at the end of the context."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


def parameters(config: RunConfig) -> dict[str, Any]:
    """Give what stays the same however often a run is gone on with."""
    return _flat({**config.settings(), "pooling": config.pooling, "seed": config.seed})


def _results(record: Mapping[str, Any]) -> dict[str, float]:
    return {f"final/{name}": value for name, value in numbers(record, _RESULTS).items()}


def numbers(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Choose the values that there are."""
    return {name: values[name] for name in names if values.get(name) is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat
