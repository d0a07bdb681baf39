"""Studies on a Ray cluster: two nodes on this machine, their workers killed and interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
from concurrent.futures import Future

import pytest

import tiny_data
from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.execute import cluster
from empool.lab.execute.supervise import Here
from empool.lab.study.run import results
from empool.lab.train import signals
from empool.lab.watch.progress import Progress
from finished_runs import outcome
from held import Together, gates

EPOCHS = 4


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
    with tiny_data.threads(1):
        yield


@pytest.fixture
def held(tmp_path):
    """A gate after the second epoch."""
    (tmp_path / "held").mkdir()
    with gates(tmp_path / "held", 2) as made:
        yield made


class Noted(Progress):
    """Remembers what was said, and which epochs ended."""

    def __init__(self):
        self.lines, self.epochs = io.StringIO(), []
        super().__init__(self.lines)

    def advanced(self, config, epochs, row):
        super().advanced(config, epochs, row)
        if row is not None:
            self.epochs.append(row["epoch"])


def outcomes(directory):
    # What resumed a run is not compared, nor the variables that Ray sets for its workers.
    return [{**outcome(record), "environment": None} for record in results(directory)]


def start(directory, place, poolings, noted=None, held=None):
    """Do a study of runs that wait after their second epoch, if there is a gate."""
    runs = tiny_data.plan(tiny_data.config(epochs=EPOCHS), poolings)
    data = tiny_data.data_set()
    if held is not None:
        data = dataclasses.replace(data, train=held.hold(data.train))
    with contextlib.closing(place):
        return tiny_data.study(directory, runs, data, place, noted)


def test_a_cluster_gives_what_one_machine_gives(nodes, tmp_path, monkeypatch, capfd, one_thread):
    monkeypatch.chdir(tmp_path)
    tiny_data.parquet_folder(tmp_path / "shapes")
    arguments = ["compare", "--data", "shapes", "--poolings", "max,ensemble:0.2", "--seeds", "1", "--epochs", "2"]
    arguments += ["--batch-size", "16", "--device", "cpu", "--recipe", "width=4"]
    there = ["--launcher", "ray", "--address", nodes, "--logger", "tensorboard", "--out", "there"]
    capfd.readouterr()
    assert cli.main([*arguments, *there]) == 0
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


def test_no_more_runs_are_on_than_there_are_cpus(nodes, tmp_path, one_thread, held):
    poolings = [f"ensemble:0.{digit}" for digit in range(1, 4)]
    start(tmp_path / "there", cluster.Ray(nodes, device="cpu"), poolings, Together(held), held)
    folders = [tmp_path / "there" / pooling.replace(":", "-") / "0" for pooling in poolings]
    begun = [(folder / "config.json").stat().st_mtime_ns for folder in folders]
    ended = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    on = [sum(b <= moment < e for b, e in zip(begun, ended, strict=True)) for moment in begun]
    assert max(on) == 2


@pytest.mark.parametrize(("fatal", "final"), [("SIGKILL", "SIGINT"), ("SIGTERM", "SIGTERM")])
def test_a_study_outlives_a_dead_worker_and_its_own_end(nodes, tmp_path, one_thread, held, fatal, final):
    class Troubled(Noted):
        """Kills the first worker when its run waits, and this process when the run waits in another."""

        def started(self, config):
            super().started(config)
            worker = held.waiting()
            self.deaths = getattr(self, "deaths", 0) + 1
            if self.deaths == 1:
                os.kill(worker, signal.Signals[fatal])
            else:
                os.kill(os.getpid(), signal.Signals[final])

    noted = Troubled()
    with signals.raised(), pytest.raises(KeyboardInterrupt) as ended:  # As the command does before it joins.
        start(tmp_path / "there", cluster.Ray(nodes, device="cpu"), ["max"], noted, held)
    assert signals.exit_code(ended.value) == 128 + signal.Signals[final]
    assert "max, seed 0: its worker died (" in noted.lines.getvalue()
    assert "; the run goes on in another" in noted.lines.getvalue()
    assert results(tmp_path / "there") == []
    held.open(2)
    resumed = Noted()
    start(tmp_path / "there", cluster.Ray(nodes, device="cpu"), ["max"], resumed)
    assert (noted.epochs + resumed.epochs).count(1) == 1  # It never began again.
    start(tmp_path / "here", Here("cpu"), ["max"])
    assert outcomes(tmp_path / "here") == outcomes(tmp_path / "there")


def test_what_no_node_has_is_refused(nodes):
    for arguments, message in (
        ((64, None, "cpu"), "no node of the cluster has 64 CPUs and 0 GPUs "),
        ((1, 0.5, "auto"), r"no node of the cluster has 1 CPUs and 0\.5 GPUs "),
        ((1, 0.5, "cpu"), "--gpus-per-run 0.5 is not for --device cpu"),
        ((1, 0.0, "cuda"), "--gpus-per-run 0 is not for --device cuda"),
        ((1, 1.5, "cuda"), r"expected a whole number or a share of one GPU, got 1\.5"),
    ):
        with pytest.raises(LabError, match=message):
            cluster.Ray(nodes, *arguments)


def test_an_error_of_a_run_arrives_in_one_line(tmp_path):
    exceptions = pytest.importorskip("ray.exceptions")
    for cause, message in (
        (LabError("last.ckpt is damaged"), r"^last\.ckpt is damaged$"),
        (ModuleNotFoundError("No module named 'timm'"), "a node of the cluster lacks a package: .*'timm'"),
    ):
        failed = Future()
        failed.set_exception(exceptions.RayTaskError("_do", f"Traceback ...\n{cause!r}", cause).as_instanceof_cause())
        with pytest.raises(LabError, match=message):
            joined(tmp_path).result(tiny_data.config(), failed)


def joined(directory):
    """Give a cluster's place without a cluster."""
    place = cluster.Ray.__new__(cluster.Ray)
    place.directory, place.on = directory, {}
    return place


def test_an_address_where_no_cluster_is_is_refused(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        for given in (address, None, "nonsense", "ray://localhost:10001", ":1"):
            with pytest.raises(
                LabError, match=f"cannot join the Ray cluster {given or address} .*: give the HOST:PORT"
            ):
                cluster.Ray(given)


def test_a_folder_that_nodes_do_not_share_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "_APPEAR", 0.0)
    (tmp_path / "study.json").write_text("of another study")
    with pytest.raises(LabError, match=r"does not see .* as it is where the study was started: --out must be a folder"):
        cluster._do(tiny_data.config(), None, "ours", str(tmp_path), 1, tiny_data.data_set(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
    done = Future()
    done.set_result({})
    with pytest.raises(LabError, match=r"result\.json was written on another node and is not here: --out must be a"):
        joined(tmp_path).result(tiny_data.config(), done)
