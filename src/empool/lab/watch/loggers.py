"""Runs told to TensorBoard, MLflow and Weights & Biases as they go, by Lightning's loggers.

An epoch that is done again after a kill may be logged twice.
"""

from __future__ import annotations

import csv
import importlib.util
import logging
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
_SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",  # It would take standard output over.
}


@dataclass(frozen=True)
class Loggers:
    """The loggers of a study; see `named`."""

    # By name, what Lightning's logger is given, from the environment where the study was started.
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def prepare(self, directory: Path) -> None:
        """Settle where they log, before several processes would, or say which can't be used."""
        for name, settings in self.settings.items():
            try:
                with _quiet():
                    settings.update(_SETTLED[name](directory))
            except ModuleNotFoundError:
                raise
            except Exception as error:  # Each tracker has its own.
                raise LabError(f"--logger {name}: {first_line(error)}") from error

    def journal(self, run: RunConfig, directory: Path) -> Journal:
        """Make the journal of a run."""
        return Journal(self.settings, run, run.folder(directory))

    def catch_up(self, run: RunConfig, directory: Path, record: Mapping[str, Any]) -> None:
        """Tell of a finished run those that lack some of its epochs."""
        if not self.settings:
            return
        with (run.folder(directory) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        with self.journal(run, directory) as told:
            if any(told.notes.get(name, {}).get("epochs", 0) < len(rows) for name in self.settings):
                told.end(rows, record)


def named(names: Sequence[str]) -> Loggers:
    """Choose loggers by name; `ModuleNotFoundError` is for one whose package isn't installed."""
    for name in names:
        if name not in KINDS:
            raise LabError(f'--logger: expected {", ".join(KINDS)}, got "{name}"')
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    return Loggers({name: {} for name in names})


class Journal:
    """What a run tells its loggers; a context, at whose end they learn how it ended.

    A logger that fails is left out for the rest of the run. The same command tells it later what it lacks.
    """

    def __init__(self, settings: Mapping[str, Mapping[str, Any]], run: RunConfig, folder: Path) -> None:
        self.settings, self.run, self.folder = dict(settings), run, folder
        path = folder / NOTES
        self.notes: dict[str, dict[str, Any]] = read_object(path) if settings and path.exists() else {}
        self.open: dict[str, Any] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = "finished" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "failed"
        for name, logger in list(self.open.items()):
            with self._trying(name):
                if name == "wandb":  # Lightning leaves it on, and the next run of this process would be the same.
                    logger.experiment.finish(exit_code=int(ended != "finished"))
                else:
                    logger.finalize(ended)

    def tell(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that a logger does not have yet."""
        for name in list(self.settings):
            with self._trying(name):
                if name not in self.open:
                    self.open[name] = self._made(name, len(history))
                for number in range(self.notes[name]["epochs"], len(history)):
                    self.open[name].log_metrics(_numbers(history[number]), step=number + 1)
                    if name == "tensorboard":
                        self.open[name].experiment.flush()
                    self._note(name, epochs=number + 1)

    def end(self, history: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
        """Log the epochs that are left, and the record."""
        self.tell(history)
        results = {f"final/{name}": value for name, value in _numbers(record).items()}
        for name, logger in list(self.open.items()):
            with self._trying(name):
                if name == "tensorboard":  # Its page of hyperparameters shows results that come with them.
                    logger.log_hyperparams(_parameters(self.run), results, len(history))
                else:
                    logger.log_metrics(results, step=len(history))

    def _note(self, name: str, **changes: Any) -> None:
        self.notes[name] = {**self.notes.get(name, {}), **changes}
        write_json(self.folder / NOTES, self.notes)

    def _made(self, name: str, epochs: int) -> Any:
        """Open a logger for the run, or go on where its note says, but not beyond the epochs that are done."""
        from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
        from lightning_utilities.core.rank_zero import rank_zero_only

        # Lightning reads it from variables that Slurm sets for every process, whether they belong together or not.
        setattr(rank_zero_only, "rank", 0)  # noqa: B010  # Missing in its annotations.
        known = self.notes.get(name, {})
        done, title = min(known.get("epochs", 0), epochs), f"{self.run.pooling}/{self.run.seed}"
        if name == "tensorboard":
            self._note(name, epochs=done)
            # Readers then leave out what a process wrote from that step on before it was killed.
            return TensorBoardLogger(self.folder, name="", version="", default_hp_metric=False, purge_step=done + 1)
        logger: Any
        if name == "mlflow":
            logger = MLFlowLogger(run_name=title, run_id=known.get("id"), **self.settings[name])
            self._note(name, epochs=done, id=logger.run_id)
        else:
            self._note(name, epochs=done, id=known.get("id") or secrets.token_hex(4))
            logger = WandbLogger(name=title, id=self.notes[name]["id"], **self.settings[name])
        logger.log_hyperparams(_parameters(self.run))
        return logger

    @contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """Leave a logger out if it fails, and say so."""
        try:
            with _quiet():
                yield
        except Exception as error:
            _log.warning("--logger %s: %s; the run goes on without it", name, first_line(error))
            self.settings.pop(name, None)
            self.open.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the trackers' packages say; undo the variable that Lightning sets for MLflow."""
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Of these packages among themselves.
            yield
    finally:
        if uri is None:  # It would hold for all studies of this process.
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def _mlflow(directory: Path) -> dict[str, Any]:
    """Settle where MLflow logs, and make the study's experiment if it isn't there."""
    from mlflow.tracking import MlflowClient

    where, given = directory.absolute(), os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"sqlite:///{(where / 'mlflow.db').as_posix()}"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or where.name
    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=None if given else (where / "mlartifacts").as_uri())
    return {"tracking_uri": uri, "experiment_name": name}


def _wandb(directory: Path) -> dict[str, Any]:
    """Settle where Weights & Biases logs: offline unless there is a login."""
    import wandb

    return {
        "save_dir": os.environ.get("WANDB_DIR", directory),
        "project": os.environ.get("WANDB_PROJECT", "empool"),
        "group": os.environ.get("WANDB_RUN_GROUP", directory.absolute().name),
        "mode": os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline"),
    }


_SETTLED = {"tensorboard": lambda directory: {}, "mlflow": _mlflow, "wandb": _wandb}


def _parameters(run: RunConfig) -> dict[str, Any]:
    """Give what stays the same however often a run is gone on with."""
    return {**run.settings(), "pooling": run.pooling, "seed": run.seed}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Give what was measured."""
    return {name: value for name, value in values.items() if isinstance(value, float) and name not in ("epoch", "p")}
