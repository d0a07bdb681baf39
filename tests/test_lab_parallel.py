"""Several runs at once: the same results, whatever dies, and nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import tiny_data
from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.execute import processes
from empool.lab.execute.here import Here
from empool.lab.execute.processes import Processes
from empool.lab.execute.session import Where
from empool.lab.train import signals
from empool.lab.train.processes import Processes as Started
from empool.lab.watch.progress import Lines
from finished_runs import outcome, rows, weights
from held import Held, at_step, wait
from test_lab_survival import child, commanded

POOLINGS = ("max", "ensemble:0.3", "average")
EPOCHS = 5


@pytest.fixture(autouse=True)
def _two_threads():
    """Leave one thread to each of two runs, and so to the run that they are compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def held(tmp_path_factory):
    """A folder for the files that runs wait for."""
    return tmp_path_factory.mktemp("held")


def start(directory, launcher, progress=None, held=None, epochs=(2,)):
    runs = tiny_data.plan(tiny_data.config("ensemble:0.3", epochs=EPOCHS), POOLINGS, [0])
    data = tiny_data.data_set()
    if held is not None:
        data = dataclasses.replace(data, train=Held(data.train.images, data.train.labels, held, epochs))
    return tiny_data.study(directory, runs, data, launcher, progress or Lines(io.StringIO()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study, one run after another on one thread."""
    directory = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start(directory, Here())
    torch.set_num_threads(threads)
    return directory


def same(directory, whole):
    """Compare two finished studies: weights and momentum bit for bit, metrics, records, names of files."""
    for pooling in ("max/0", "ensemble-0.3/0", "average/0"):
        ours, theirs = (weights(d / pooling) for d in (directory, whole))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert rows(directory / pooling) == rows(whole / pooling)
        assert {path.name for path in (directory / pooling).iterdir()} == {
            *("config.json", "metrics.csv", "last.ckpt", "result.json"),
        }
    records, others = (json.loads((d / "results.json").read_text()) for d in (directory, whole))
    assert [outcome(record) for record in records] == [outcome(record) for record in others]
    assert [record["threads"] for record in records] == [1] * len(POOLINGS)
    return True


class At(Lines):
    """Acts when the run of max ends an epoch after the first, some times, and lets the runs that wait for that go on.

    A run that is killed right then may do that epoch again, and end it again: what counts is how often one ends.
    """

    def __init__(self, act, held, times=1):
        self.text = io.StringIO()
        super().__init__(self.text)
        self.act, self.held, self.times = act, held, times

    def advanced(self, config, epochs, row):
        super().advanced(config, epochs, row)
        if config.pooling == "max" and row is not None and epochs >= 2 and self.times:
            self.times -= 1
            self.act()
            for epoch in [int(epochs)] if self.times else range(2, EPOCHS):
                (self.held / str(epoch)).touch()


class Together(Lines):
    """Lets the runs that wait after their second epoch go on once two are on."""

    def __init__(self, held):
        super().__init__(io.StringIO())
        self.held, self.on, self.abreast = held, set(), 0

    def started(self, config):
        super().started(config)
        self.on.add(config)
        self.abreast = max(self.abreast, len(self.on))
        if self.abreast == 2:
            (self.held / "2").touch()

    def finished(self, config, record):
        super().finished(config, record)
        self.on.discard(config)


def kill(launcher, number=signal.SIGKILL):
    (process,) = [process for run, process in launcher.on.values() if run.pooling == "max"]
    os.kill(process.pid, number)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_runs_at_once_have_the_records_of_one_after_another(whole, tmp_path, monkeypatch, held, method):
    monkeypatch.setattr(processes, "_context", lambda device: multiprocessing.get_context(method))
    seen = Together(held)
    records = start(tmp_path, Processes(2), seen, held)
    assert same(tmp_path, whole)
    assert [record["pooling"] for record in records] == [*POOLINGS]
    assert seen.abreast == 2
    assert multiprocessing.active_children() == []


def test_a_run_whose_process_is_killed_goes_on_in_another_from_its_checkpoint(whole, tmp_path, held):
    launcher = Processes(2)
    progress = At(functools.partial(kill, launcher), held)
    start(tmp_path, launcher, progress, held)
    (line,) = [line for line in progress.text.getvalue().splitlines() if "process" in line]
    assert line.startswith("max, seed 0: its process ")
    assert line.endswith(" was killed by SIGKILL, often for want of memory; the run goes on in another")
    assert same(tmp_path, whole)


def test_a_run_whose_process_is_terminated_alone_goes_on_in_another(whole, tmp_path, held):
    launcher = Processes(2)
    progress = At(functools.partial(kill, launcher, signal.SIGTERM), held)
    start(tmp_path, launcher, progress, held)
    assert "ended with exit code 143; the run goes on in another" in progress.text.getvalue()
    assert same(tmp_path, whole)


def test_a_run_whose_processes_are_killed_again_and_again_is_named_after_the_others_are_done(whole, tmp_path, held):
    launcher = Processes(2)
    with pytest.raises(LabError) as caught:
        start(tmp_path, launcher, At(functools.partial(kill, launcher), held, 3), held, (2, 3, 4))
    assert str(caught.value).startswith("1 of 3 runs were lost (max, seed 0: its process ")
    assert str(caught.value).endswith(", for the 3rd time); the same command tries them again")
    done = [record["pooling"] for record in json.loads((tmp_path / "results.json").read_text())]
    assert done == ["ensemble:0.3", "average"]
    start(tmp_path, Processes(2))
    assert same(tmp_path, whole)


def test_what_is_wrong_with_a_run_reaches_the_study_in_one_line(whole, tmp_path):
    (tmp_path / "ensemble-0.3").mkdir()
    (tmp_path / "ensemble-0.3/0").write_text("")
    with pytest.raises(LabError) as caught:
        start(tmp_path, Processes(2))
    assert str(caught.value) == (
        f"cannot write to {tmp_path}/ensemble-0.3/0 (File exists): make it writable or choose another --out"
    )
    assert multiprocessing.active_children() == []
    (tmp_path / "ensemble-0.3/0").unlink()
    start(tmp_path, Processes(2))
    assert same(tmp_path, whole)


class Strange(Exception):
    """Cannot be pickled as it is."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


@pytest.mark.parametrize("error", [LabError("a line"), Strange("neither", "nor")], ids=["known", "strange"])
def test_an_error_arrives_with_its_message(error):
    arrived = pickle.loads(pickle.dumps(processes.sendable(error)))
    assert str(error) in str(arrived)
    assert isinstance(arrived, type(error) if isinstance(error, LabError) else RuntimeError)


def test_a_full_disk_arrives_as_such_from_below_what_pytorch_makes_of_it():
    error = RuntimeError("PytorchStreamWriter failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
    arrived = pickle.loads(pickle.dumps(processes.sendable(error)))
    assert (arrived.errno, arrived.filename) == (errno.ENOSPC, "last.ckpt")


def at_second_epoch(act):
    """Act once when the run of max has done two epochs, in the process of the study, from which its own are forked.

    That is what starts them soonest; it works in a process that has computed nothing. No run does a third epoch: they
    wait in it for the end of the study.
    """
    at_step(3, 1, functools.partial(wait, Path(os.devnull) / "never"))
    processes._context = lambda device: multiprocessing.get_context("fork")
    following, acted = Lines.advanced, []

    def advanced(self, config, epochs, row):
        following(self, config, epochs, row)
        if row is not None and (config.pooling, epochs) == ("max", 2) and not acted:
            acted.append(True)
            act()

    Lines.advanced = advanced


def signalled(number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # It may be ignored where the tests were started.
    os.kill(os.getpid(), number)


def studied(directory, act):
    """Do the study, acting in the second epoch: what `child` runs."""
    torch.set_num_threads(2)
    at_second_epoch(act)
    try:
        with signals.raised():
            start(directory, Processes(2))
    except KeyboardInterrupt as stopped:
        sys.exit(signals.exit_code(stopped))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_to_the_study_ends_its_runs_and_it_goes_on(whole, tmp_path, number):
    assert child(studied, tmp_path, functools.partial(signalled, number)) == 128 + number
    assert (tmp_path / "max/0/last.ckpt").exists()
    assert not (tmp_path / "max/0/result.json").exists()
    start(tmp_path, Processes(2))
    assert same(tmp_path, whole)


def test_the_command_does_runs_at_once_and_ends_by_sigterm_with_143(tmp_path):
    tiny_data.parquet_folder(tmp_path / "shapes")
    arguments = ["compare", "--data", "shapes", "--poolings", "max,average", "--jobs", "2", "--epochs", "5"]
    arguments += ["--batch-size", "10", "--device", "cpu", "--recipe", "width=4", "--out", "study"]
    hook = functools.partial(at_second_epoch, functools.partial(signalled, signal.SIGTERM))
    assert child(commanded, arguments, tmp_path, hook) == 143
    said = (tmp_path / "stderr").read_text()
    assert said.splitlines()[-1] == (
        "empool: ended by SIGTERM; finished runs stay in study, and the same command goes on: "
        f"empool {' '.join(arguments)}"
    )
    assert "Traceback" not in said
    assert (tmp_path / "study/max/0/last.ckpt").exists()


def die_and_name_children(path):
    path.write_text(" ".join(str(process.pid) for process in multiprocessing.active_children()))
    signalled(signal.SIGKILL)


def is_alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_no_process_outlives_a_study_that_is_killed(tmp_path):
    act = functools.partial(die_and_name_children, tmp_path / "children")
    assert child(studied, tmp_path / "study", act) == -signal.SIGKILL
    children = (tmp_path / "children").read_text().split()
    assert len(children) == 2
    end = time.monotonic() + 20
    while any(is_alive(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in children)


def test_jobs_are_refused_where_they_mean_nothing(monkeypatch, capsys):
    assert isinstance(Where(jobs=2).place(), Processes)
    with pytest.raises(LabError, match="--jobs is for --launcher local"):
        Where("ray", jobs=2).place()
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("empool.lab.train.processes.joined", lambda: contextlib.nullcontext(Started(0, 2)))
    assert cli.main(["compare", "--jobs", "2"]) == 1
    assert "--jobs does runs in one process each: leave out torchrun or srun" in capsys.readouterr().err
