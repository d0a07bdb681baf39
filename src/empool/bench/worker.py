"""The process that measures: cases come as JSON on standard input, rows leave as JSON lines on standard output.

It is a process of its own because glibc reads how it is to manage memory when a process starts.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from empool.bench import cases, contestants, network
from empool.bench.cases import Case
from empool.bench.contestants import Data
from empool.bench.timing import Clock, EventClock, alternate, copy_bandwidth, synchronised_clock, wall_clock

_LARGE = {"cpu": 256 << 20, "cuda": 1 << 30}
_CACHES = 4
"""Input sets that take turns on a GPU hold this many times what its cache does."""


def measure(case: Case, device: str, seconds: float, clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    """Measure a case.

    Args:
        case: what to measure.
        device: "cpu" or "cuda".
        seconds: about how long it may take.
        clock: how a sample is timed.
        bandwidth: bytes a second of a large copy.

    Returns:
        One row a contestant, as `empool bench --json` holds it.
    """
    if case.phase == cases.NETWORK:
        rows = network.measure(case, seconds)
    else:
        rows = _take_turns(case, device, seconds, clock, bandwidth)
    common = {name: value for name, value in case.as_json().items() if name not in ("contestants", "window")}
    return [{**common, "window": str(case.window), "baseline": case.baseline, **row} for row in rows]


def _take_turns(case: Case, device: str, seconds: float, clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    data = Data.of(case, device, _input_sets(case, device))
    torch.compiler.reset()
    forwards = contestants.forwards(case)
    with torch.set_grad_enabled(case.phase in (cases.STEP, cases.FORWARD)):
        timings = alternate(contestants.calls(case, data, forwards), clock, seconds)
    floor, copied = case.floor_bytes(data.inputs[0].element_size()), 2 * data.inputs[0].nbytes
    if cases.COPY in timings:
        bandwidth = max(bandwidth, copied / timings[cases.COPY].seconds.median)
    rows = []
    for name, timing in timings.items():
        moved = copied if name == cases.COPY else floor
        row = {"contestant": name, **timing.as_json(), "floor_bytes": moved}
        if case.shape != cases.TINY:
            row["copy_share"] = moved / timing.seconds.median / bandwidth
        if case.phase == cases.STEP and name in forwards:
            row["kept_bytes"], row["keeps_input"] = contestants.kept(forwards[name], data.inputs[0])
            row["outputs"] = data.gradients[0].numel()
        rows.append(row)
    return rows


def _input_sets(case: Case, device: str) -> int:
    """Return how many input sets take turns: on a GPU as many as its cache cannot hold."""
    if device == "cpu" or case.shape == cases.TINY:
        return 1
    size = math.prod(case.shape) * getattr(torch, case.dtype).itemsize
    cache: int = torch.cuda.get_device_properties(0).L2_cache_size
    return int(max(2, math.ceil(_CACHES * cache / size)))


def work(order: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the bandwidth of a copy, then the rows of each case, or why it has none."""
    device = order["device"]
    bandwidth = copy_bandwidth(device, _LARGE[device], order["seconds"])
    yield {"copy_bandwidth": bandwidth}
    clock: Clock = wall_clock if device == "cpu" else EventClock()
    for content in order["cases"]:
        case = Case.from_json(content)
        host_bound = device == "cuda" and case.shape == cases.TINY
        turns = synchronised_clock if host_bound else clock
        try:
            yield {"rows": measure(case, device, order["seconds"], turns, bandwidth)}
        except Exception as error:  # A compiler's, or too little memory: the other cases are worth having.
            traceback.print_exc()
            yield {"failed": str(case), "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Do what standard input orders."""
    order = json.load(sys.stdin)
    # Whatever else is printed, by a compiler say, must not come between the rows.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if order["device"] == "cpu":
        torch.set_num_threads(order["threads"])
    for answer in work(order):
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
