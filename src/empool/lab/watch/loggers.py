"""Runs told to experiment trackers as they go: TensorBoard, MLflow and Weights & Biases, by Lightning's loggers."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from empool.lab.errors import LabError, first_line
from empool.lab.files import read_json, write_json
from empool.lab.study.run import RunConfig

if TYPE_CHECKING:
    from empool.lab.watch.trackers import Tracker

_log = logging.getLogger(__name__)
Row = Mapping[str, Any]
KINDS = ("tensorboard", "mlflow", "wandb")

NOTES = "loggers.json"  # in a run's folder: what each logger calls the run, and how many epochs it has
_METRICS = (
    *("train_loss", "train_error", "test_loss", "test_error", "test_ece", "test_top5_error", "validation_error"),
    *("lr", "images_per_second"),
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
            LabError: if a tracker cannot be used.
            ModuleNotFoundError: if a package is missing.
        """
        for name in self.names:
            from empool.lab.watch.trackers import TRACKERS

            try:
                with _quiet():
                    TRACKERS[name].prepare(self.variables, directory)
            except (LabError, ModuleNotFoundError):
                raise
            except Exception as error:  # Each tracker has its own.
                raise LabError(f"--logger {name}: {first_line(error)}") from error

    def journal(self, config: RunConfig, directory: Path) -> Journal:
        """Make the journal of a run."""
        return Journal(self, config, directory)


def named(names: Sequence[str]) -> Loggers:
    """Choose loggers by name.

    Raises:
        LabError: for an unknown name.
        ModuleNotFoundError: for a logger whose package is not installed.
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

    A logger that fails does not end the run: it is told what it lacks when the next epoch ends. So is one that the run
    did not have from its beginning.
    """

    def __init__(self, loggers: Loggers, config: RunConfig, directory: Path) -> None:
        self.loggers, self.config, self.directory = loggers, config, directory
        self.path = config.folder(directory) / NOTES
        self.notes: dict[str, dict[str, Any]] = {}
        if loggers.names and self.path.exists():
            self.notes = read_json(self.path)
        self.open: dict[str, Tracker] = {}
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

    def lacks(self, epochs: int) -> bool:
        """Tell whether one of the loggers does not have that many epochs yet."""
        return any(self.notes.get(name, {}).get("epochs", 0) < epochs for name in self.loggers.names)

    def tell(self, history: Sequence[Row]) -> None:
        """Log the epochs that a logger does not have yet."""
        for name in self.loggers.names:
            with self._trying(name):
                from empool.lab.watch.trackers import numbers

                tracker = self._opened(name, len(history))
                for row in history[tracker.epochs :]:
                    tracker.logger.log_metrics(numbers(row, _METRICS), step=tracker.epochs + 1)
                    tracker.flush()
                    tracker.epochs += 1
                    self._note(name, epochs=tracker.epochs)

    def end(self, history: Sequence[Row], record: Mapping[str, Any]) -> None:
        """Log the epochs that are left, and the record."""
        self.tell(history)
        for name, tracker in list(self.open.items()):
            with self._trying(name):
                tracker.end(record)
        for name in sorted(self.failed):
            _log.warning("--logger %s: the run has ended, not wholly logged; %s has it", name, self.path.parent)

    def _opened(self, name: str, done: int) -> Tracker:
        if name not in self.open:
            from lightning_utilities.core.rank_zero import rank_zero_only

            from empool.lab.watch.trackers import TRACKERS, URI, Run, parameters

            os.environ.update({k: v for k, v in self.loggers.variables.items() if k not in os.environ and k != URI})
            # Lightning reads it from variables that Slurm sets for every process, whether they belong together or not.
            setattr(rank_zero_only, "rank", 0)  # noqa: B010  # Missing in its annotations.
            note = self.notes.setdefault(name, {})
            tracker = TRACKERS[name](Run(self.loggers.variables, self.config, self.directory, note, done))
            self._note(name, epochs=tracker.epochs)
            self.open[name] = tracker
            tracker.logger.log_hyperparams(parameters(self.config))
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
                _log.warning("--logger %s: %s; the run goes on, and tries it every epoch", name, first_line(error))
            self.failed.add(name)
        else:
            self.failed.discard(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the trackers' packages deprecate among themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
