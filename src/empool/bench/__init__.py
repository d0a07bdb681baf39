"""Times of every operator and layer beside PyTorch's, of the obvious way to write them, and of a plain copy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from empool.bench import base as comparing
from empool.bench import cases, host, memory, table
from empool.lab.errors import LabError
from empool.lab.files import write_json

__all__ = ["bench"]

SECONDS = {"cpu": 1.0, "cuda": 0.3}
"""How long a case takes unless the fewest rounds take longer; half of it in the subset."""


def bench(
    device: str = "cpu",
    json_path: Path | None = None,
    *,
    quick: bool = False,
    threads: int = 2,
    dtypes: Sequence[str] = cases.DTYPES,
    shapes: Sequence[tuple[int, ...]] | None = None,
    only: str = "",
    seconds: float | None = None,
    base: str | None = None,
    command: str = "empool bench",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, show each case as it is done, and at the end a summary.

    Args:
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        json_path: file that all of it is written to, once it is complete.
        quick: a subset, in at most a minute.
        threads: that PyTorch uses on the CPU.
        dtypes: names in `torch`; the first one is measured most.
        shapes: of inputs (N, C, H, W), in place of the usual ones.
        only: words, each of which must be one of a case's text.
        seconds: how long a case takes unless the fewest rounds take longer.
        base: a git revision to compare with: the kernel tests run first, and nothing is measured where one fails.
        command: that the file is to name.
        say: takes lines to show.

    Returns:
        What the file holds: the host, and "rows", one for each case and contestant.

    Raises:
        LabError: if there is no such device, no case is left, the file's folder is missing, the measuring process
            dies, or, once all others are written, a case fails.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("no CUDA device: use --device cpu")
    unknown = [name for name in dtypes if name not in (*cases.DTYPES, "float64")]
    if unknown or not dtypes:
        raise LabError(f"bench: expected dtypes among {', '.join(cases.DTYPES)}, float64, got {', '.join(unknown)}")
    if threads < 1:
        raise LabError(f"bench: expected at least 1 thread, got {threads}")
    if seconds is not None and seconds < 0:
        raise LabError(f"bench: expected seconds of at least 0, got {seconds:g}")
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise LabError(f"{json_path.parent}: no such folder")
    planned = cases.plan(device, quick=quick, dtypes=dtypes, shapes=shapes, only=only)
    if not planned:
        raise LabError(f'bench: no case has all the words "{only}"')
    if base is not None:
        planned = comparing.comparable(planned)
        root = comparing.repository()
        say(f"kernel tests: {comparing.GATE}")
        comparing.check(root)
    began = time.monotonic()
    record = host.describe(device, threads, command)
    record |= {"reuse": memory.REUSE if device == "cpu" else None, "rows": [], "failed": []}
    for line in table.head(record):
        say(line)
    if seconds is None:
        seconds = SECONDS[device] * (0.5 if quick else 1)
    order = {"device": device, "threads": threads, "seconds": seconds}
    if base is None:
        _measure(record, planned, order, say)
    else:
        with comparing.built(root, base, say) as (src, commit):
            before: dict[str, Any] = {"rows": [], "failed": []}
            # Case by case, so that both meet the machine in the same state.
            for case in planned:
                _measure(before, [case], order, lambda line: None, *comparing.worker(src))
                _measure(record, [case], order, lambda line: None)
        record["base"] = {
            "revision": base,
            "commit": commit,
            "rows": comparing.compared(record["rows"], before["rows"]),
        }
        for line in comparing.lines(record["base"]["rows"], commit):
            say(line)
    record |= {"load_after": host.load(), "wall_seconds": round(time.monotonic() - began, 1)}
    for line in table.summary(record) if base is None else ():
        say(line)
    if json_path is not None:
        write_json(json_path, record)
        say(f"written: {json_path}")
    if record["failed"]:
        raise LabError(f"bench: {len(record['failed'])} of {len(planned)} cases failed; their errors are above")
    return record


def _measure(
    record: dict[str, Any],
    planned: Sequence[cases.Case],
    order: dict[str, Any],
    say: Callable[[str], None],
    *worker: str,
) -> None:
    """Add to a record what is measured of the cases."""
    done = 0
    for kind in dict.fromkeys(case.memory for case in planned):
        chosen = [case for case in planned if case.memory == kind]
        for answer in _worker(kind, order | {"cases": [case.as_json() for case in chosen]}, *worker):
            if "copy_bandwidth" in answer:
                record.setdefault("copy_bandwidth", answer["copy_bandwidth"])
                continue
            done += 1
            if "failed" in answer:
                record["failed"].append(answer)
                say(f"[{done}/{len(planned)}] {answer['failed']}: {answer['error']}")
                continue
            record["rows"] += answer["rows"]
            for line in table.block(answer["rows"], f"[{done}/{len(planned)}]"):
                say(line)


def _worker(kind: str, order: dict[str, Any], *command: str) -> Iterator[dict[str, Any]]:
    """Let a process of its own measure, and yield its answers as they come."""
    process = subprocess.Popen(
        command or (sys.executable, "-m", "empool.bench.worker"),
        env=memory.environment(kind),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin
    assert process.stdout
    try:
        with process.stdin as stdin:
            json.dump(order, stdin)
        with process.stdout as stdout:
            for line in stdout:
                yield json.loads(line)
        if process.wait():
            raise LabError(f"bench: the measuring process ended with code {process.returncode}; its error is above")
    finally:
        process.kill()
        process.wait()
