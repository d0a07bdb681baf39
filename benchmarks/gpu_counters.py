"""Count, by Nsight Compute, what fourteen Triton kernels keep a GPU busy with: why a kernel is slower than a copy.

    python benchmarks/gpu_counters.py [--json FILE]

Needs `ncu` and the right to read the GPU's counters. Every kernel is started once before, and then under `ncu`, which
repeats it for each group of counters from a cold cache; clocks are left as they are, so times are a little longer than
`gpu_timing.py` tells. Columns, in per cent but for the first and the last three: the time; memory's bandwidth; the
second and the first level of the cache; how often a scheduler starts an instruction; how long the ALU, the multipliers'
heavy half and the converter work; warps that a multiprocessor holds, of 64; registers of a thread; of how many cycles a
warp waits for memory, and for a busy unit, at each instruction. `gpu_static.py` predicts the units' shares.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from gpu_timing import SHAPES, Case, _contestants

_LARGE, _SMALL = SHAPES[:2]
CASES: tuple[tuple[str, Case], ...] = (
    ("draw", (_LARGE, "3x3/2", "bf16", "NCHW")),
    ("draw", (_LARGE, "3x3/2", "bf16", "NHWC")),
    ("draw", (_LARGE, "3x3/2", "f32", "NCHW")),
    ("draw", (_LARGE, "3x3/2", "f32", "NHWC")),
    ("draw", (_SMALL, "3x3/2", "bf16", "NCHW")),
    ("draw", (_SMALL, "2x2/2", "bf16", "NCHW")),
    ("mean", (_LARGE, "3x3/2", "bf16", "NCHW")),
    ("mean", (_SMALL, "3x3/2", "bf16", "NCHW")),
    ("scatter", (_LARGE, "3x3/2", "bf16", "NCHW")),
    ("scatter", (_SMALL, "3x3/2", "bf16", "NCHW")),
    ("max-dropout draw", (_LARGE, "3x3/2", "bf16", "NHWC")),
    ("average mean", (_LARGE, "3x3/2", "bf16", "NCHW")),
    ("soft draw", (_LARGE, "3x3/2", "bf16", "NCHW")),
    ("soft mean", (_LARGE, "3x3/2", "bf16", "NCHW")),
)
_OF_PEAK = "avg.pct_of_peak_sustained"
COUNTERS = {
    "us": "gpu__time_duration.sum",
    "memory": f"gpu__dram_throughput.{_OF_PEAK}_elapsed",
    "L2": f"lts__throughput.{_OF_PEAK}_elapsed",
    "L1": f"l1tex__throughput.{_OF_PEAK}_active",
    "starts": f"smsp__issue_active.{_OF_PEAK}_active",
    "ALU": f"sm__inst_executed_pipe_alu.{_OF_PEAK}_active",
    "heavy": f"sm__pipe_fmaheavy_cycles_active.{_OF_PEAK}_elapsed",
    "converter": f"sm__inst_executed_pipe_xu.{_OF_PEAK}_active",
    "warps": f"sm__warps_active.{_OF_PEAK}_active",
    "registers": "launch__registers_per_thread",
    "for memory": "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "for a unit": "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
}
_KERNELS = "regex:^_(rank|value|drawn)_.*_kernel$"


def main() -> None:
    """Print a line for every kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all counts to this file")
    parser.add_argument("--start", action="store_true", help="only start the kernels, as is done under ncu")
    arguments = parser.parse_args()
    if arguments.start:
        _start()
        return
    found = _counted()
    labels = [" ".join([name, "x".join(map(str, shape)), *rest]) for name, (shape, *rest) in CASES]
    if len(found) != len(CASES):
        print(f"{len(CASES)} kernels were started and {len(found)} counted, so they have their own names")
        labels = [name for name, _ in found]
    print(f"{'kernel':54}", *(f"{name:>10}" for name in COUNTERS))
    for label, (_, counts) in zip(labels, found, strict=True):
        print(f"{label:54}", *(f"{counts[name]:10.1f}" for name in COUNTERS))
    if arguments.json:
        rows = [{"case": label, "kernel": name, **counts} for label, (name, counts) in zip(labels, found, strict=True)]
        arguments.json.write_text(
            json.dumps({"device": torch.cuda.get_device_name(), "kernels": rows}, indent=1) + "\n"
        )


def _start() -> None:
    """Start every case's kernel once more than it takes to compile it, and let ncu see that alone."""
    for name, case in CASES:
        call = _contestants(case, ["ensemble" if " " not in name else name.split()[0]], 1)[name]
        call(0)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call(0)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def _counted() -> list[tuple[str, dict[str, float]]]:
    """Return the names and counts of the cases' kernels in turn."""
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    options = [
        "--profile-from-start",
        "off",
        "--clock-control",
        "none",
        "--csv",
        "--page",
        "raw",
        "--print-units",
        "base",
    ]
    what = ["-k", _KERNELS, "--metrics", ",".join(COUNTERS.values()), sys.executable, __file__, "--start"]
    printed = subprocess.run([ncu, *options, *what], capture_output=True, text=True, check=False)
    found = read(printed.stdout)
    if not found:
        sys.exit(f"ncu: {printed.stdout[-2000:]}{printed.stderr[-2000:]}")
    return found


def read(printed: str) -> list[tuple[str, dict[str, float]]]:
    """Read the kernels' names and counts from what ncu prints, among other lines; NaN is what it could not count."""
    rows = list(csv.DictReader(line for line in printed.splitlines() if line.startswith('"')))
    found = []
    for row in rows[1:]:  # The first has the units.
        counts = {name: _number(row.get(key)) for name, key in COUNTERS.items()}
        found.append((row["Kernel Name"], counts | {"us": counts["us"] / 1000}))
    return found


def _number(text: str | None) -> float:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return math.nan


if __name__ == "__main__":
    main()
