"""Runs told to TensorBoard, MLflow and Weights & Biases by Lightning's loggers, in the process of the study.

An epoch may be logged twice if the study is killed, or a tracker fails, right then.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from empool.lab.errors import LabError, first_line
from empool.lab.files import read_object, write_json
from empool.lab.study.run import RunConfig

_log = logging.getLogger(__name__)
_NOTES = "loggers.json"  # in a run's folder: what each logger calls the run, how many epochs it has, and if that is all
Row = Mapping[str, Any]
Make = Callable[[RunConfig, str | None], Any]  # one of Lightning's loggers, for a run and what the tracker calls it


class Loggers:
    """The loggers of a study, which hear of its runs as `Progress` does.

    One that fails is left out from then on. The same command tells it later what it lacks.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            if name not in _KINDS:
                raise LabError(f'--logger: expected {", ".join(_KINDS)}, got "{name}"')
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        self.names = dict.fromkeys(names)
        self.on: dict[tuple[str, RunConfig], Any] = {}

    @contextmanager
    def opened(self, directory: Path) -> Iterator[None]:
        """Settle where they log, or say which can't be used; at the end, close what did not finish."""
        self.directory, self.make = directory, dict[str, Make]()
        for name in self.names:
            try:
                self.make[name] = _KINDS[name](directory)
            except ModuleNotFoundError:
                raise
            except Exception as error:  # Each tracker has its own.
                raise LabError(f"--logger {name}: {first_line(error)}") from error
        uri, ended = os.environ.get("MLFLOW_TRACKING_URI"), "failed"
        try:
            yield
        except KeyboardInterrupt:
            ended = "KILLED"
            raise
        finally:  # Those of runs that did not end, or of a tracker that failed, are still on.
            for (name, _), logger in self.on.items():
                with suppress(Exception):  # What ended the study is to be said.
                    _close(name, logger, ended)
            if uri is None:  # Lightning sets it, for all studies of this process.
                os.environ.pop("MLFLOW_TRACKING_URI", None)

    def advanced(self, run: RunConfig, epochs: float, row: Row | None) -> None:
        """Log an epoch that ends, and those before it that a logger lacks."""
        if row is not None:
            self._tell(run, {row["epoch"]: row})

    def finished(self, run: RunConfig, record: Row) -> None:
        """Log the epochs that a logger lacks, and the record."""
        self._tell(run, {}, record)

    def _tell(self, run: RunConfig, *what: Any) -> None:
        for name in list(self.names):
            try:
                self._log(name, run, *what)
            except Exception as error:
                _log.warning("--logger %s: %s; the study goes on without it", name, first_line(error))
                del self.names[name]

    def _log(self, name: str, run: RunConfig, ended: dict[int, Row], record: Row | None = None) -> None:
        folder = run.folder(self.directory)
        notes = read_object(folder / _NOTES) if (folder / _NOTES).exists() else {}
        known = {"id": None, "epochs": 0, "all": False, **notes.get(name, {})}
        if known["all"]:
            return
        parameters = {**run.settings(), "pooling": run.pooling, "seed": run.seed}
        if (name, run) not in self.on:
            self.on[name, run] = self.make[name](run, known["id"])
            self.on[name, run].log_hyperparams(parameters)
        logger = self.on[name, run]
        for epoch, row in {**_written(folder), **ended}.items():
            if epoch > known["epochs"]:
                logger.log_metrics(_numbers(row), step=epoch)
                known["epochs"] = epoch
        if name == "tensorboard":
            logger.experiment.flush()
        known["id"] = logger.version
        if record is not None:
            results = {f"final/{field}": value for field, value in _numbers(record).items()}
            if name == "tensorboard":  # Its page of hyperparameters shows results that come with them.
                logger.log_hyperparams(parameters, results, known["epochs"])
            else:
                logger.log_metrics(results, step=known["epochs"])
            _close(name, self.on.pop((name, run)), "finished")
            known["all"] = True
        write_json(folder / _NOTES, {**notes, name: known})


def _close(name: str, logger: Any, ended: str) -> None:
    if name == "wandb":  # Lightning leaves it on.
        logger.experiment.finish(exit_code=int(ended != "finished"))
    else:
        logger.finalize(ended)


def _tensorboard(directory: Path) -> Make:
    from lightning.pytorch.loggers import TensorBoardLogger

    return lambda run, _: TensorBoardLogger(run.folder(directory), name="", version="", default_hp_metric=False)


def _mlflow(directory: Path) -> Make:
    """Settle where MLflow logs."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.tracking import MlflowClient

    where, given = directory.absolute(), os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"sqlite:///{(where / 'mlflow.db').as_posix()}"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or where.name
    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=None if given else (where / "mlartifacts").as_uri())
    return lambda run, known: MLFlowLogger(name, run.title, uri, run_id=known)


def _wandb(directory: Path) -> Make:
    """Settle where Weights & Biases logs: offline unless there is a login."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # It would take standard output over.
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    settings: dict[str, Any] = {
        "save_dir": os.environ.get("WANDB_DIR", directory),
        "project": os.environ.get("WANDB_PROJECT", "empool"),
        "group": os.environ.get("WANDB_RUN_GROUP", directory.absolute().name),
        "mode": os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline"),
        "reinit": "create_new",  # Several runs may be on at once.
    }
    return lambda run, known: WandbLogger(run.title, id=known, **settings)


_KINDS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _numbers(values: Row) -> dict[str, float]:
    """Give what was measured."""
    return {name: value for name, value in values.items() if isinstance(value, float) and name != "p"}


def _written(folder: Path) -> dict[Any, Row]:
    """Read the epochs in a run's metrics.csv; the first one is told before there is that."""
    import pandas

    path = folder / "metrics.csv"
    rows = pandas.read_csv(path, index_col="epoch") if path.exists() else pandas.DataFrame()
    return {epoch: row.dropna().to_dict() for epoch, row in rows.iterrows()}
