"""The runs of a study as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError, first_line
from empool.lab.execute.supervise import Died, Hear, Here, Record, do_telling
from empool.lab.study.run import RunConfig
from empool.lab.train import signals

_ANSWER = 5.0  # seconds in which a cluster answers; Ray itself would try for minutes
_CANCEL = 15.0  # seconds that cancelled runs have to end by themselves
_APPEAR = 15.0  # seconds that a file system may take to show a file that another node wrote
_SHARE = "--out must be a folder that all nodes share, at one path"


class Ray(Here):
    """A Ray cluster that this process has joined, until it is closed.

    Args:
        address: HOST:PORT of the cluster; "local" starts one on this machine; None: RAY_ADDRESS, or else "local".
        cpus: that a run takes, and threads that PyTorch uses in it.
        gpus: that a run takes, or the share of one; None: one if it is computed on GPUs.
        device: "cpu", "cuda", or "auto" for what the nodes have.
    """

    slots = 1_000_000  # The cluster itself does no more at once than it has room for.

    def __init__(
        self, address: str | None = None, cpus: int = 1, gpus: float | None = None, device: str = "auto"
    ) -> None:
        self.ray, self.cpus = _join(address), cpus
        self.on: dict[RunConfig, Any] = {}  # references to records
        try:
            self.device, self.gpus = self._settled(device, gpus)
        except LabError:
            self.close()
            raise

    def _settled(self, device: str, gpus: float | None) -> tuple[str, float]:
        """Choose "cpu" or "cuda" for all runs, and how many GPUs each takes."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if device == "auto":
            device = "cuda" if gpus or (gpus is None and any(node.get("GPU", 0) for node in nodes)) else "cpu"
        taken = float(device == "cuda") if gpus is None else gpus
        if (device == "cuda") != (taken > 0):
            raise LabError(f"--gpus-per-run {taken:g} is not for --device {device}")
        if taken > 1 and taken != int(taken):
            raise LabError(f"--gpus-per-run: expected a whole number or a share of one GPU, got {taken:g}")
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= taken for node in nodes):
            what = f"{self.cpus} CPUs and {taken:g} GPUs (--cpus-per-run, --gpus-per-run)"
            raise LabError(f"no node of the cluster has {what}: `ray status` says what there is")
        return device, taken

    @contextmanager
    def opened(self, data: DataSet, directory: Path, hear: Hear) -> Iterator[None]:
        """Give the cluster the data; at the end, interrupt the runs that are on."""
        from ray.exceptions import RayError
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.directory, self.hear = directory.absolute(), hear
        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        self.words = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self.given = self.ray.put(data), self.directory
        # By its study.json a worker knows that it sees the same folder.
        self.place = (directory / "study.json").read_text(encoding="utf-8"), os.getcwd(), self.cpus
        try:
            yield
        finally:  # Runs that were under way keep their whole epochs.
            with contextlib.suppress(RayError):
                for reference in self.on.values():
                    self.ray.cancel(reference)
                if self.on:
                    self.ray.wait([*self.on.values()], num_returns=len(self.on), timeout=_CANCEL)

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()

    def submit(self, run: RunConfig) -> Future[Record]:
        """Queue a run."""
        # Who takes a run up again is the loop of the study, so that it can say so.
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_do)
        self.on[run] = task.options(name=f"empool: {run.title}").remote(run, self.words, *self.place, *self.given)
        future: Future[Record] = self.on[run].future()
        return future

    def listen(self) -> None:
        """Take the words out of the queue."""
        from ray.exceptions import RayError

        on = {(run.pooling, run.seed): run for run in self.on}
        with contextlib.suppress(RayError):  # The words are lost with their actor; the results are not.
            for key, words in self.words.get_nowait_batch(self.words.qsize()):
                if key in on:
                    self.hear(on[key], *words)

    def result(self, run: RunConfig, future: Future[Record]) -> Record:
        """Take a run's record."""
        from ray.exceptions import RayError, RayTaskError

        self.on.pop(run, None)
        try:
            record = future.result()
        except RayTaskError as error:
            if isinstance(error.cause, LabError | OSError):
                raise error.cause from None
            if "No module named" in str(error):
                last = str(error).strip().rpartition("\n")[2]
                raise LabError(f"a node of the cluster lacks a package: {last}") from None
            raise
        except RayError as error:
            raise Died(f"its worker died ({first_line(error)})") from None
        written = run.folder(self.directory) / "result.json"
        if not _appears(written):
            raise LabError(f"{written} was written on another node and is not here: {_SHARE}")
        return record


def _do(run: RunConfig, queue: Any, study: str, working: str, threads: int, data: DataSet, directory: Path) -> Record:
    """Do a run, on a worker."""
    with contextlib.suppress(OSError):
        os.chdir(working)  # Names of images may be relative to it.
    if not _appears(directory / "study.json", study):
        raise LabError(f"{platform.node()} does not see {directory} as it is where the study was started: {_SHARE}")
    key = run.pooling, run.seed  # Plain objects alone, so that the queue's actor need not load PyTorch.

    def send(words: tuple[Any, ...]) -> None:
        # Not by the queue's own method: that waits for the answer, and Ray lends the CPU of a task that waits.
        queue.actor.put_nowait.remote((key, words))

    try:
        return do_telling(send, threads, run, data, directory)
    except signals.Terminated as terminated:  # To Ray it would be a run that was cancelled; so it is taken up again.
        os._exit(signals.exit_code(terminated))


def _appears(path: Path, content: str | None = None) -> bool:
    """Tell whether a file, with that content if one is given, is there or appears in the time that it may take."""
    end = time.monotonic() + _APPEAR
    while True:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content or content is None:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def _join(address: str | None) -> Any:
    """Join or start a cluster, and return Ray's module, which is quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How Ray will behave from a later version on, of which it warns.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        if address != "local":
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), port), _ANSWER).close()
        with signals.handled(signal.getsignal(signal.SIGTERM)):  # Ray sets one of its own.
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise LabError(
            f"cannot join the Ray cluster {address} ({first_line(error)}): give the HOST:PORT that `ray start --head` "
            "showed, on a machine that has joined"
        ) from None
    return ray
