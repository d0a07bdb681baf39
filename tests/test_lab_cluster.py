"""Studies on a Ray cluster: two nodes on this machine, their workers killed and interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import sys
import threading
import time
import types

import pytest
import torch

import tiny_data
from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.execute import cluster
from empool.lab.execute.here import Here
from empool.lab.study.run import results
from empool.lab.train import signals
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Lines
from held import Held

EPOCHS = 4
# A commit made while the tests run is no difference, nor are the variables that Ray sets for its workers.
TIMES = ("seconds", "images_per_second", "commit", "resumed", "environment")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes with one CPU each; gives the cluster's address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patched:
        # The nodes find the tests' modules, such as the data's, where this process finds them.
        patched.setenv("PYTHONPATH", tiny_data.python_path())
        both = Cluster(initialize_head=True, head_node_args=small)
        try:
            both.add_node(**small)
            both.wait_for_nodes(timeout=120)
            yield both.address
        finally:
            both.shutdown()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Noted(Lines):
    """Remembers what was said; `trouble` comes at the end of an epoch."""

    def __init__(self):
        self.lines = io.StringIO()
        super().__init__(self.lines)
        self.seen = []
        self.rows = []

    def started(self, config):
        super().started(config)
        self.seen.append((config.pooling, config.seed))

    def advanced(self, config, epochs, row):
        super().advanced(config, epochs, row)
        if row is not None:
            self.rows.append((config.pooling, row))


def outcomes(directory):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in results(directory)]


def start(directory, place, poolings, noted=None, held=None):
    """Do a study of runs that wait after their second epoch, if a folder is given, for the file "2" in there."""
    runs = tiny_data.plan(tiny_data.config(epochs=EPOCHS), poolings)
    data = tiny_data.data_set()
    if held is not None:
        data = dataclasses.replace(data, train=Held(data.train.images, data.train.labels, held, (2,)))
    with contextlib.closing(place):
        place.device_named("cpu")
        return tiny_data.study(directory, runs, data, place, noted)


@pytest.fixture
def held(tmp_path):
    """A folder for the file that runs wait for, which is there in the end."""
    folder = tmp_path / "held"
    folder.mkdir()
    yield folder
    (folder / "2").touch()


def test_a_cluster_gives_what_one_machine_gives(nodes, tmp_path, monkeypatch, capfd, one_thread):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny_data.parquet_folder(tmp_path / "shapes")
    arguments = ["compare", "--data", "shapes", "--poolings", "max,ensemble:0.2", "--seeds", "1", "--epochs", "2"]
    arguments += ["--batch-size", "16", "--device", "cpu", "--recipe", "width=4"]
    capfd.readouterr()
    assert (
        cli.main([*arguments, "--launcher", "ray", "--address", nodes, "--logger", "tensorboard", "--out", "there"])
        == 0
    )
    for pooling in ("max", "ensemble-0.2"):
        assert len(list((tmp_path / "there" / pooling / "0").glob("events.*"))) == 1
    said = capfd.readouterr().err.splitlines()
    assert "2 runs" in said
    assert [line[:6] for line in said if line.startswith("[")] == ["[1/2] ", "[2/2] "]
    assert not any("ray" in line.lower() for line in said)
    assert cli.main([*arguments, "--out", "here"]) == 0
    assert outcomes(tmp_path / "there") == outcomes(tmp_path / "here")
    assert json.loads((tmp_path / "there" / "results.json").read_text()) == results(tmp_path / "there")
    assert (tmp_path / "there" / "report.html").exists()
    assert not (tmp_path / "there" / ".cluster").exists()


def test_no_more_runs_are_on_than_there_are_cpus(nodes, tmp_path, one_thread, held):
    class Counted(Noted):
        def started(self, config):
            super().started(config)
            if len(self.seen) == 2:
                (held / "2").touch()

    poolings = [f"ensemble:0.{digit}" for digit in range(1, 5)]
    start(tmp_path / "there", cluster.Ray(nodes), poolings, Counted(), held)
    folders = [tmp_path / "there" / pooling.replace(":", "-") / "0" for pooling in poolings]
    begun = [(folder / "config.json").stat().st_mtime_ns for folder in folders]
    ended = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    on = [sum(b <= moment < e for b, e in zip(begun, ended, strict=True)) for moment in begun]
    assert max(on) == 2


@pytest.mark.parametrize(("fatal", "final"), [("SIGKILL", "SIGINT"), ("SIGTERM", "SIGTERM")])
def test_a_study_outlives_a_dead_worker_and_its_own_end(nodes, tmp_path, one_thread, held, fatal, final):
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals.raised():  # As the command does, before it joins the cluster.
            outlive(nodes, tmp_path, held, fatal, final)
    finally:
        signal.signal(signal.SIGINT, inherited)


def outlive(nodes, tmp_path, held, fatal, final):
    class Troubled(Noted):
        """Kills the first worker when its run waits, and this process when the run waits in another."""

        def started(self, config):
            super().started(config)
            first = len(self.seen) == 1
            number, process = (fatal, None) if first else (final, os.getpid())
            threading.Thread(target=signal_what_waits, args=(held, number, process)).start()

    noted = Troubled()
    with pytest.raises(KeyboardInterrupt) as ended:
        start(tmp_path / "there", cluster.Ray(nodes), ["max"], noted, held)
    assert signals.exit_code(ended.value) == 128 + signal.Signals[final]
    assert "max, seed 0: its worker died (" in noted.lines.getvalue()
    assert "; the run goes on in another" in noted.lines.getvalue()
    assert not (tmp_path / "there" / ".cluster").exists()
    assert results(tmp_path / "there") == []
    (held / "2").touch()
    resumed = Noted()
    start(tmp_path / "there", cluster.Ray(nodes), ["max"], resumed)
    epochs = [row["epoch"] for _, row in noted.rows + resumed.rows]
    assert epochs.count(1) == 1  # It never began again.
    start(tmp_path / "here", Here(), ["max"])
    assert outcomes(tmp_path / "here") == outcomes(tmp_path / "there")


def signal_what_waits(held, name, process=None):
    """Wait until a run waits; then send a signal to its process, or to the one given."""
    end = time.monotonic() + 100
    while not (waiting := list(held.glob("waiting-*"))):
        assert time.monotonic() < end, "no run waits"
        time.sleep(0.01)
    (path,) = waiting
    path.unlink()
    os.kill(process or int(path.name.partition("-")[2]), signal.Signals[name])


def test_what_no_node_has_is_refused(nodes, tmp_path):
    for arguments, device, message in (
        ((64,), "cpu", r"no node of the cluster has the 64 CPUs and 0 GPUs .* 1 CPUs and 0 GPUs, 1 CPUs and 0 GPUs"),
        ((1, 0.5), "auto", r"no node of the cluster has the 1 CPUs and 0\.5 GPUs"),
        ((1, 0.5), "cpu", "--gpus-per-run is for --device cuda"),
        ((1, 0.0), "cuda", "--device cuda needs --gpus-per-run"),
    ):
        with contextlib.closing(cluster.Ray(nodes, *arguments)) as place, pytest.raises(LabError, match=message):
            place.device_named(device)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (LabError("last.ckpt is damaged"), r"^last\.ckpt is damaged$"),
        (ModuleNotFoundError("No module named 'timm'"), "a node of the cluster lacks a package: .*'timm'"),
    ],
)
def test_an_error_of_a_run_arrives_in_one_line(tmp_path, cause, message):
    exceptions = pytest.importorskip("ray.exceptions")

    def get(reference):
        raise exceptions.RayTaskError("_do", f"Traceback ...\n{cause!r}", cause).as_instanceof_cause()

    launcher = cluster.Ray.__new__(cluster.Ray)
    launcher.directory = tmp_path
    launcher.ray = types.SimpleNamespace(get=get)
    with pytest.raises(LabError, match=message):
        launcher._outcome(None, tiny_data.config())


@pytest.mark.parametrize("address", ["nonsense", "ray://localhost:10001", ":1", "localhost:99999"])
def test_an_address_that_is_none_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(LabError, match=f'--address: expected HOST:PORT, auto or local, got "{address}"'):
        cluster.Ray(address)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LabError, match=f"no Ray cluster answers at {address} .*: give the address that"):
            cluster.Ray(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(LabError, match=f"no Ray cluster answers at {address}"):
            cluster.Ray()


def test_a_cluster_that_is_no_more_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert (cluster._choose(None), cluster._choose("auto"), cluster._choose("local")) == ("local", "auto", "local")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert cluster._choose(None) == "local"
        for asked, environment in (("auto", None), (None, "auto"), ("auto", address)):
            if environment:
                monkeypatch.setenv("RAY_ADDRESS", environment)
            with pytest.raises(LabError, match=f"no Ray cluster answers at {address}"):
                cluster._choose(asked)
        assert cluster._choose("local") == "local"


def test_the_cluster_that_ray_started_last_is_joined(nodes, monkeypatch, tmp_path):
    address = pytest.importorskip("ray._common.utils").get_ray_address_file
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    path = tmp_path / "ray" / "ray_current_cluster"
    assert str(path) == address(None)
    path.write_text(nodes)
    assert cluster._choose(None) == cluster._choose("auto") == nodes


def test_what_answers_but_is_no_cluster_is_named(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "_ANSWER", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LabError, match=f"no Ray cluster answers at {address} "):
            cluster.Ray(address)


def test_ray_is_named_if_it_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["compare", "--launcher", "ray"]) == 1
    error = "empool: error: --launcher ray needs Ray, which is not installed: pip install 'empool[ray]'"
    assert capsys.readouterr().err.splitlines()[-1] == error


def test_a_worker_that_sees_another_folder_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_APPEAR", 0.0)
    (tmp_path / ".cluster").write_text("of another study")
    with pytest.raises(LabError, match=r"does not see .* as it is where the study was started: --out must be a folder"):
        cluster._do(tiny_data.config(), None, tiny_data.data_set(), tmp_path, Loggers(), str(tmp_path), 1, "token")
    assert [path.name for path in tmp_path.iterdir()] == [".cluster"]


def test_a_result_that_is_not_seen_here_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "_APPEAR", 0.0)
    launcher = cluster.Ray.__new__(cluster.Ray)
    launcher.directory = tmp_path
    launcher.ray = types.SimpleNamespace(get=lambda reference: {})
    with pytest.raises(LabError, match=r"result\.json was written on another node and is not here: --out must be a"):
        launcher._outcome(None, tiny_data.config())


def test_shares_of_gpus_are_of_one():
    with pytest.raises(LabError, match=r"expected a whole number or a share of one GPU, got 1\.5"):
        cluster.Ray(gpus=1.5)
