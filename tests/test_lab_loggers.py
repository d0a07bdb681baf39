"""TensorBoard, MLflow and Weights & Biases: what they show is what metrics.csv says, each epoch once."""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import io
import logging
import os
import sys
import types
from unittest.mock import Mock

import pytest
import torch

import tiny_data
from empool.lab.errors import LabError
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress
from finished_runs import weights

ROW = ("train_loss", "train_error", "test_loss", "test_error", "test_ece", "lr")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of these packages among themselves.
RESULTS = ("test_error", "train_error", "test_loss", "train_loss", "test_nll", "test_ece", "seconds")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Cut(Progress):
    """Interrupts a study when its run has begun the epoch after so many."""

    def __init__(self, epochs):
        super().__init__(quiet=True)
        self.last = epochs

    def advanced(self, run, epochs, row):
        if epochs > self.last and row is None:
            raise KeyboardInterrupt
        super().advanced(run, epochs, row)


def started(directory, names, config=None, progress=None):
    """Do a study of one run, and give its record."""
    return tiny_data.study(directory, [config or tiny_data.config()], progress=progress, loggers=Loggers(names))[0]


def cut(directory, names, config, epochs):
    with pytest.raises(KeyboardInterrupt):
        started(directory, names, config, Cut(epochs))


def metrics(directory, pooling="max"):
    """Give the columns of metrics.csv that are logged, up to float32, without the epochs that have no value."""
    with (directory / pooling / "0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [(int(row["epoch"]), near(float(row[name]))) for row in rows if row[name]] for name in ROW}


def near(value):
    return pytest.approx(value, rel=1e-6, abs=1e-9)


def tensorboard(directory, pooling="max"):
    """Read what TensorBoard shows of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory / pooling / "0"))
    events.Reload()
    return events


def scalars(events):
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in ROW}


def mlflow_run(directory, uri=None):
    """Read the only run of the only experiment that MLflow has, and its metrics."""
    client = pytest.importorskip("mlflow").MlflowClient(uri or f"sqlite:///{directory / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(directory.name).experiment_id])
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in ROW}
    return run, {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}


def test_trackers_show_what_metrics_csv_says_and_change_nothing(tmp_path, monkeypatch, capfd):
    started(tmp_path / "own", ["mlflow"])
    assert mlflow_run(tmp_path / "own")[0].info.status == "FINISHED"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    config, directory, uri = tiny_data.config(epochs=4), tmp_path / "study", f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    names = ["tensorboard", "mlflow", "tensorboard"]
    cut(directory, names, config, 2.5)
    before, _ = mlflow_run(directory, uri)
    assert before.info.status == "KILLED"
    capfd.readouterr()
    record = started(directory, names, config)
    assert capfd.readouterr() == ("", "")
    run, shown = mlflow_run(directory, uri)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (before.info.run_id, "max, seed 0", "FINISHED")
    assert run.data.params.items() >= {"recipe/learning_rate": "0.05", "pooling": "max", "seed": "0"}.items()
    events = tensorboard(directory)
    assert [shown, scalars(events)] == [metrics(directory)] * 2
    assert [event.step for event in events.Scalars("images_per_second")] == [1, 2, 3, 4]
    for name in RESULTS:
        assert run.data.metrics[f"final/{name}"] == near(record[name])
        assert [event.value for event in events.Scalars(f"final/{name}")] == [near(record[name])]
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(events.summary_metadata)
    assert os.environ["MLFLOW_TRACKING_URI"] == uri

    started(tmp_path / "without", [], config)
    with_it, without = (tmp_path / name / "max/0" for name in ("study", "without"))
    torch.testing.assert_close(weights(with_it), weights(without), rtol=0, atol=0)
    assert (with_it / "config.json").read_text() == (without / "config.json").read_text()
    more = {path.name for path in with_it.iterdir()} - {path.name for path in without.iterdir()}
    assert {name.partition(".")[0] for name in more} == {"loggers", "events"}
    assert {path.name for path in tmp_path.iterdir()} == {"own", "study", "without", "elsewhere.db"}


def test_a_logger_that_failed_is_told_what_it_missed_and_nothing_twice(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    config, said = tiny_data.config(epochs=4), io.StringIO()
    caplog.set_level(logging.ERROR, "empool.lab")  # A study has its own level, and gives this one back.
    cut(tmp_path, ["tensorboard"], config, 1.5)
    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardLogger, "finalize", closed := Mock())
        patched.setattr(TensorBoardLogger, "log_metrics", Mock(side_effect=RuntimeError("no answer\nfor long")))
        started(tmp_path, ["tensorboard"], config, Progress(said))
    assert said.getvalue().count("--logger tensorboard: no answer; the study goes on without it\n") == 1
    closed.assert_called_once_with("failed")
    assert logging.getLogger("empool.lab").level == logging.ERROR
    assert len(tensorboard(tmp_path).Scalars("train_loss")) == 1
    for _ in range(2):  # The run has ended.
        started(tmp_path, ["tensorboard"], config)
        assert scalars(tensorboard(tmp_path)) == metrics(tmp_path)
        assert len(tensorboard(tmp_path).Scalars("final/test_error")) == 1


def test_a_tracker_that_cannot_be_used_is_an_error_before_the_first_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://there")
    with pytest.raises(LabError, match=r"--logger mlflow: .*nonsense"):
        started(tmp_path, ["mlflow"])
    assert not (tmp_path / "max").exists()


@pytest.fixture
def wandb(monkeypatch):
    """Put a package of that name in the place of the real one, which has a server of its own."""
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.runs, module.run, module.key = [], None, False

    class Run:
        """What Lightning and the lab use of a run."""

        def __init__(self, **arguments):
            module.runs.append(self)
            self.arguments, self.id, self.logged = arguments, arguments["id"], []
            self.config, self.log = Mock(), self.logged.append

        def finish(self, exit_code):
            self.code = exit_code

    module.init, module.login = Run, lambda prompt: module.key
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "wandb.sdk", Mock())
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib", Mock(RunDisabled=str))
    monkeypatch.setitem(sys.modules, "wandb.wandb_run", Mock(Run=Run))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    for name in ("WANDB_SILENT", "WANDB_CONSOLE"):
        monkeypatch.setenv(name, "")
    return module


def test_wandb_is_offline_without_a_login_and_a_group_is_a_study(tmp_path, wandb, monkeypatch):
    config = tiny_data.config("ensemble:0.2", epochs=4)
    cut(tmp_path / "study", ["wandb"], config, 2.5)
    record = started(tmp_path / "study", ["wandb"], config)
    first, second = wandb.runs
    assert first.id == second.id
    assert (first.code, second.code) == (1, 0)
    known = {"name": "ensemble:0.2, seed 0", "group": "study", "project": "empool", "dir": str(tmp_path / "study")}
    how = {"mode": "offline", "resume": "allow", "reinit": "create_new"}
    assert first.arguments.items() >= {**known, **how}.items()
    logged = [*first.logged, *second.logged]
    assert [values["trainer/global_step"] for values in logged] == [1, 2, 3, 4, 4]  # The last is the record's.
    shown = {name: [(v["trainer/global_step"], v[name]) for v in logged if name in v] for name in ROW}
    assert shown == metrics(tmp_path / "study", "ensemble-0.2")
    assert logged[-1]["final/test_error"] == record["test_error"]
    assert second.config.update.call_args.args[0]["recipe"]["width"] == 8
    wandb.key = True
    for name, value in {"WANDB_PROJECT": "pools", "WANDB_DIR": str(tmp_path / "there")}.items():
        monkeypatch.setenv(name, value)
    started(tmp_path / "other", ["wandb"])
    known = {"mode": "online", "project": "pools", "dir": str(tmp_path / "there")}
    assert wandb.runs[-1].arguments.items() >= known.items()
