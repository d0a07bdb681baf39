"""Several runs at once: the same results, whatever dies, and nothing left behind."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import select
import signal
import sys
from unittest.mock import Mock

import pytest

import tiny_data
from empool.lab.errors import LabError
from empool.lab.execute import processes
from empool.lab.execute.processes import Processes
from empool.lab.execute.supervise import Here
from empool.lab.train import signals
from empool.lab.watch.progress import Progress
from finished_runs import same
from held import Held, Together, gates
from test_lab_survival import child

POOLINGS = ("max", "ensemble:0.3", "average")
EPOCHS = 5


@pytest.fixture(autouse=True)
def _two_threads():
    """Leave one thread to each of two runs, and so to the run that they are compared with."""
    with tiny_data.threads(2):
        yield


@pytest.fixture
def held(tmp_path_factory):
    """Gates after the second epoch and later ones."""
    with gates(tmp_path_factory.mktemp("held"), *range(2, EPOCHS)) as made:
        yield made


def start(directory, place=None, progress=None, held=None, poolings=POOLINGS):
    runs = tiny_data.plan(tiny_data.config("ensemble:0.3", epochs=EPOCHS), poolings, [0])
    data = tiny_data.data_set()
    if held is not None:
        data = dataclasses.replace(data, train=held.hold(data.train))
    return tiny_data.study(directory, runs, data, place or Processes(2, "cpu"), progress)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study, one run after another on one thread."""
    directory = tmp_path_factory.mktemp("whole")
    with tiny_data.threads(1):
        start(directory, Here("cpu"))
    return directory


def same_as(whole, directory, poolings=POOLINGS):
    records = json.loads((directory / "results.json").read_text())
    assert [record["threads"] for record in records] == [1] * len(poolings)
    assert multiprocessing.active_children() == []
    return same(directory, whole, poolings)


class At(Progress):
    """Acts when a process of the run of max ends an epoch after the first, for so many processes.

    Runs that wait after an epoch that it has ended may go on afterwards, and all after the last act. A run that is
    killed right then may do that epoch again, and end it again: what counts is how often a process ends one.
    """

    def __init__(self, act, held=None, times=1):
        self.text = io.StringIO()
        super().__init__(self.text)
        self.act, self.held, self.times, self.acted = act, held, times, False

    def started(self, config):
        super().started(config)
        if config.pooling == "max":
            self.acted = False

    def advanced(self, config, epochs, row):
        super().advanced(config, epochs, row)
        if config.pooling != "max" or row is None or epochs < 2 or not self.times:
            return
        if not self.acted:
            self.times, self.acted = self.times - 1, True
            self.act(config)
        if self.held is not None:
            self.held.open(*[int(epochs)] if self.times else range(2, EPOCHS))


def killing(place, number=signal.SIGKILL):
    """Give what sends a signal to the process of a run."""

    def kill(run):
        (pid,) = place.on[run][0]._processes
        os.kill(pid, number)

    return kill


@pytest.mark.parametrize(("method", "poolings"), [("forkserver", POOLINGS), ("spawn", POOLINGS[:2])])
def test_runs_at_once_have_the_records_of_one_after_another(whole, tmp_path, monkeypatch, held, method, poolings):
    monkeypatch.setattr(processes, "_context", lambda device: multiprocessing.get_context(method))
    monkeypatch.setitem(sys.modules, "__main__", Mock(__file__="/no such script", __spec__=None))
    seen = Together(held)
    records = start(tmp_path, None, seen, held, poolings)
    assert same_as(whole, tmp_path, poolings)
    assert [record["pooling"] for record in records] == [*poolings]
    assert seen.abreast == 2


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGKILL, "killed, often for want of memory"), (signal.SIGTERM, "ended by SIGTERM")]
)
def test_a_run_whose_process_dies_goes_on_in_another_from_its_checkpoint(whole, tmp_path, held, number, end):
    place = Processes(2, "cpu")
    progress = At(killing(place, number), held)
    start(tmp_path, place, progress, held)
    (line,) = [line for line in progress.text.getvalue().splitlines() if "process" in line]
    assert line == f"max, seed 0: its process was {end}; the run goes on in another"
    assert same_as(whole, tmp_path)


def test_a_run_that_is_killed_again_and_again_is_named_after_the_others_are_done(whole, tmp_path, held):
    place = Processes(2, "cpu")
    with pytest.raises(LabError, match=r"^1 of 3 runs were lost \(max, seed 0\); the same command tries them again$"):
        start(tmp_path, place, At(killing(place), held, 3), held)
    done = [record["pooling"] for record in json.loads((tmp_path / "results.json").read_text())]
    assert done == ["ensemble:0.3", "average"]
    start(tmp_path)
    assert same_as(whole, tmp_path)


def test_what_is_wrong_with_a_run_reaches_the_study_in_one_line(whole, tmp_path):
    (tmp_path / "ensemble-0.3").mkdir()
    (tmp_path / "ensemble-0.3/0").write_text("")
    with pytest.raises(LabError, match=r"^cannot write to .*/ensemble-0\.3/0 \(File exists\): make it writable, or"):
        start(tmp_path)
    assert multiprocessing.active_children() == []
    (tmp_path / "ensemble-0.3/0").unlink()
    start(tmp_path)
    assert same_as(whole, tmp_path)


class Strange(Exception):
    def __init__(self, one, other):  # Cannot be unpickled.
        super().__init__(f"{one} {other}")


def test_an_error_that_cannot_be_unpickled_arrives_with_its_message(monkeypatch):
    monkeypatch.setattr(processes, "do_telling", Mock(side_effect=Strange("neither", "nor")))
    monkeypatch.setattr(processes, "_given", (Mock(),))
    with pytest.raises(RuntimeError) as caught:
        processes._work()
    assert str(pickle.loads(pickle.dumps(caught.value))) == "Strange: neither nor"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_study_ends_its_runs_and_it_goes_on(whole, tmp_path, held, number):
    with signals.raised(), pytest.raises(KeyboardInterrupt) as stopped:
        start(tmp_path, None, At(lambda run: os.kill(os.getpid(), number)), held)
    assert signals.exit_code(stopped.value) == 128 + number
    assert multiprocessing.active_children() == []
    assert (tmp_path / "max/0/last.ckpt").exists()
    assert not (tmp_path / "max/0/result.json").exists()
    start(tmp_path)
    assert same_as(whole, tmp_path)


class Living(Held):
    """Images whose processes hold a pipe open as long as they live."""

    def __reduce__(self):
        return living, (self.folder, super().__reduce__())


def living(folder, reduced):
    living.pipe = os.open(folder / "alive", os.O_WRONLY)
    make, arguments = reduced
    return make(*arguments)


def killed(directory, folder):
    """Do the study until the run of max waits, and die: what `child` runs."""
    data = tiny_data.data_set()
    data = dataclasses.replace(data, train=Living(data.train.images, data.train.labels, folder, (2,)))
    runs = tiny_data.plan(tiny_data.config(epochs=EPOCHS), POOLINGS, [0])
    tiny_data.study(directory, runs, data, Processes(2, "cpu"), At(lambda run: os.kill(os.getpid(), signal.SIGKILL)))


def test_no_process_outlives_a_study_that_is_killed(tmp_path, held):
    os.mkfifo(held.folder / "alive")
    alive = os.open(held.folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    assert child(killed, tmp_path, held.folder) == -signal.SIGKILL
    assert select.select([alive], [], [], 60)[0]  # The last process that held the other end is dead.
    assert os.read(alive, 1) == b""
    os.close(alive)
