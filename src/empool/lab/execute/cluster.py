"""The runs of a study as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from empool.lab.data.sets import Data
from empool.lab.errors import LabError, first_line
from empool.lab.execute.processes import Words
from empool.lab.execute.supervise import Died, Hear, do
from empool.lab.files import write_text
from empool.lab.study.run import RunConfig
from empool.lab.train import signals
from empool.lab.watch.loggers import Loggers

_ANSWER = 5.0  # seconds in which a cluster answers
_POLL = 0.2  # seconds between two looks at what the workers say
_CANCEL = 15.0  # seconds that cancelled runs have to end by themselves
_APPEAR = 15.0  # seconds that a file system may take to show a file that another node wrote
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the frame with which HTTP/2 opens; its type is byte 3 (RFC 9113)
_MARKER = ".cluster"  # file in the study's folder, by which a worker knows that it sees the same folder
_SHARE = "--out must be a folder that all nodes share, at one path"


class Ray:
    """A Ray cluster that this process has joined, until it is closed.

    Args:
        address: HOST:PORT of the cluster; "local" starts one on this machine; "auto" is one that runs on this machine;
            None: RAY_ADDRESS, or one that runs on this machine, or else one is started here.
        cpus: that a run takes, and threads that PyTorch uses in it.
        gpus: that a run takes, or the share of one; None: one if it is computed on GPUs.

    Raises:
        LabError: if Ray is not installed, or the cluster cannot be joined within seconds.
    """

    def __init__(self, address: str | None = None, cpus: int = 1, gpus: float | None = None) -> None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise LabError(f"--gpus-per-run: expected a whole number or a share of one GPU, got {gpus:g}")
        self.cpus, self.gpus = cpus, gpus
        self.slots = 1_000_000  # The cluster itself does no more at once than it has room for.
        self.on: dict[Any, RunConfig] = {}  # by the reference to its record
        self.ray = _join(address)

    def device_named(self, device: str) -> str:
        """Choose "cpu" or "cuda" for all runs, and settle what a run takes.

        Raises:
            LabError: if no node has as much.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if device == "auto":
            wanted = self.gpus is None and any(node.get("GPU", 0) for node in nodes)
            device = "cuda" if self.gpus or wanted else "cpu"
        if device == "cpu" and self.gpus:
            raise LabError("--gpus-per-run is for --device cuda")
        if device == "cuda" and self.gpus == 0:
            raise LabError("--device cuda needs --gpus-per-run, a number or a share of one")
        self.gpus = (1.0 if device == "cuda" else 0.0) if self.gpus is None else self.gpus
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            each = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise LabError(
                f"no node of the cluster has the {self.cpus} CPUs and {self.gpus:g} GPUs that a run is to take "
                f"(--cpus-per-run, --gpus-per-run); it has nodes with {each or 'nothing'}"
            )
        return device

    @contextmanager
    def opened(self, data: Data, directory: Path, loggers: Loggers) -> Iterator[None]:
        """Take the data, and mark the folder; leave the cluster at the end, its runs interrupted."""
        from ray.util.queue import Queue

        directory = directory.absolute()
        marker, token = directory / _MARKER, secrets.token_hex(8)
        write_text(marker, token)
        self.directory = directory
        self.words = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": self._here()})
        self.given = self.ray.put(data), directory, loggers, os.getcwd(), self.cpus, token
        try:
            yield
        finally:
            self._cancel()
            marker.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()

    def submit(self, run: RunConfig) -> None:
        """Queue a run."""
        # Who takes a run up again is the loop of the study, so that it can say so.
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus or 0, max_retries=0)(_do)
        self.on[task.options(name=f"empool: {run.title}").remote(run, self.words, *self.given)] = run

    def wait(self, hear: Hear) -> Iterator[tuple[RunConfig, dict[str, Any] | Died]]:
        """Listen to the workers."""
        from ray.exceptions import RayError

        ready, _ = self.ray.wait(list(self.on), num_returns=1, timeout=_POLL)
        with contextlib.suppress(RayError):  # The words are lost with their actor; the results are not.
            on = {(run.pooling, run.seed): run for run in self.on.values()}
            for key, words in self.words.get_nowait_batch(self.words.qsize()):
                if key in on:
                    hear(on[key], *words)
        for reference in ready:
            run = self.on[reference]
            outcome = self._outcome(reference, run)
            del self.on[reference]
            yield run, outcome

    def _here(self) -> Any:
        """Give the strategy that keeps an actor on this node if it can."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)

    def _outcome(self, reference: Any, config: RunConfig) -> dict[str, Any] | Died:
        """Take a run's record, or what it died of."""
        from ray.exceptions import RayError, RayTaskError

        try:
            record: dict[str, Any] = self.ray.get(reference)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LabError | OSError):
                raise cause from None
            if isinstance(cause, ModuleNotFoundError) or "No module named" in str(error):
                raise LabError(f"a node of the cluster lacks a package: {_last_line(error)}") from None
            raise
        except RayError as error:
            return Died(f"its worker died ({first_line(error)})")
        result = config.folder(self.directory) / "result.json"
        if not _appears(result):
            raise LabError(f"{result} was written on another node and is not here: {_SHARE}")
        return record

    def _cancel(self) -> None:
        """Interrupt runs, and wait for them: what they have done up to the last whole epoch stays."""
        references, self.on = list(self.on), {}
        if not references:
            return
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            for reference in references:
                self.ray.cancel(reference)
            self.ray.wait(references, num_returns=len(references), timeout=_CANCEL)


def _do(
    run: RunConfig,
    queue: Any,
    data: Data,
    directory: Path,
    loggers: Loggers,
    working: str,
    threads: int,
    token: str,
) -> dict[str, Any]:
    """Do a run, on a worker."""
    with contextlib.suppress(OSError):
        os.chdir(working)  # Names of images may be relative to it.
    if not _appears(directory / _MARKER, token):
        raise LabError(f"{platform.node()} does not see {directory} as it is where the study was started: {_SHARE}")
    if run.device == "cuda" and not torch.cuda.is_available():
        raise LabError(f"{platform.node()} has a GPU to give, but PyTorch there finds no CUDA device")
    torch.set_num_threads(threads)
    # Plain objects alone, so that the queue's actor need not load PyTorch.
    key = run.pooling, run.seed
    # Not the queue's own method: that waits for the answer, and Ray lends the CPU of a task that waits to another.
    words = Words(lambda words: queue.actor.put_nowait.remote((key, words)))
    words.send(("started",))
    try:
        return do(run, data, directory, words.watch, loggers)
    except signals.Terminated as terminated:  # To Ray it would be a run that was cancelled; so it is taken up again.
        os._exit(signals.exit_code(terminated))


def _appears(path: Path, content: str | None = None) -> bool:
    """Tell whether a file, with that content if one is given, is there, now or after what a file system may take."""
    end = time.monotonic() + _APPEAR
    while True:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content or (content is None and path.exists()):
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def _join(address: str | None) -> ModuleType:
    """Join or start a cluster, and return Ray's module, which is quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How Ray will behave from a later version on, of which it warns.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise LabError("--launcher ray needs Ray, which is not installed: pip install 'empool[ray]'") from None
    address = _choose(address)
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        with signals.kept():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "a Ray cluster on this machine" if address in ("auto", "local") else f"the Ray cluster {address}"
        raise LabError(f"cannot join {where}: {first_line(error)}") from None
    except SystemExit as stopped:  # Ray's own answer to SIGTERM.
        if stopped.code != signal.SIGTERM:
            raise
        raise signals.Terminated from None
    module: ModuleType = ray
    return module


def _choose(address: str | None) -> str:
    """Choose HOST:PORT of a cluster that answers, "local" to start one, or "auto" to look for a process of one."""
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    if address in (None, "auto"):
        current = _current()
        if current is not None:
            try:
                _knock(current)
            except LabError:
                if address is not None:
                    raise
            else:
                return current
        return address or "local"
    assert address is not None
    if address != "local":
        _knock(address)
    return address


def _current() -> str | None:
    """Read where the cluster is that `ray start` began or joined on this machine last; it may be no more."""
    linux = os.environ.get("TMPDIR") if platform.system() == "Linux" else None
    folder = os.environ.get("RAY_TMPDIR") or linux or (tempfile.gettempdir() if os.name == "nt" else "/tmp")
    with contextlib.suppress(OSError):
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    return None


def _knock(address: str) -> None:
    """Refuse an address where nothing answers as gRPC does, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdigit() or int(port) > 65535:
        raise LabError(f'--address: expected HOST:PORT, auto or local, got "{address}"')
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
                answer = connection.recv(len(_SETTINGS))
                if answer[3:4] != _SETTINGS[3:4]:
                    raise ConnectionError("what answers is no gRPC server")
    except OSError as error:
        raise LabError(
            f"no Ray cluster answers at {address} ({error}): give the address that `ray start --head` showed, "
            "on a machine that has joined the cluster"
        ) from None


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
