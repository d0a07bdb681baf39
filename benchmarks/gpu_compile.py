"""Time compiled training steps on a GPU: pooling between pointwise operations, its kernels seen by Inductor or not.

    python benchmarks/gpu_compile.py [--json FILE] [--jobs 12]

"Seen" is the usual case: the graph starts our kernels itself (`empool._traced`). "Operator" is the same under
`torch._functorch.config.decompose_custom_triton_ops = False`: the graph calls an operator, which starts them. The small
input is all overhead, the large one all memory. Microseconds a step by the wall clock, medians of turns.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config

import empool

SHAPES = {"small": (8, 16, 16, 16), "large": (256, 64, 56, 56)}
MODES = {"compiled": None, "with CUDA graphs": "reduce-overhead"}
POOLS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "max": (lambda: nn.MaxPool2d(3, 2, 1), True),
    "seen": (lambda: empool.EnsembleMaxPool2d(3, 2, 1), True),
    "operator": (lambda: empool.EnsembleMaxPool2d(3, 2, 1, p=0.11), False),  # Not the same graph to Dynamo.
}
STEPS, TURNS = 20, 11


def main() -> None:
    """Print a line for every shape and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the results to this file too")
    parser.add_argument("--jobs", type=int, default=12, help="processes that compile first, side by side")
    arguments = parser.parse_args()
    if arguments.jobs:
        with multiprocessing.get_context("spawn").Pool(arguments.jobs) as processes:
            processes.starmap(_compile, itertools.product(POOLS, SHAPES, MODES), chunksize=1)
    results: list[dict[str, Any]] = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for size, shape in SHAPES.items():
        for mode in MODES:
            torch._dynamo.reset()
            steps = {name: _step(name, shape, MODES[mode]) for name in POOLS}
            times = _times(steps)
            results.append({"size": size, "shape": shape, "mode": mode, "microseconds": times})
            print(f"{size:6} {mode:17}", *(f"{name} {time:8.1f}" for name, time in times.items()), flush=True)
            if arguments.json:
                with open(arguments.json, "w") as file:
                    json.dump({"device": torch.cuda.get_device_name(), "results": results}, file, indent=1)


def _compile(name: str, size: str, mode: str) -> None:
    with contextlib.suppress(Exception):  # The error comes again, where it is reported.
        _step(name, SHAPES[size], MODES[mode])


def _step(name: str, shape: tuple[int, ...], mode: str | None) -> Callable[[], None]:
    """Compile a step and run it until nothing is left to compile or to capture."""
    make, seen = POOLS[name]
    pool = make().cuda()
    input = torch.randn(shape, device="cuda", requires_grad=True)

    def loss(input: Tensor) -> Tensor:
        return (pool((input * 1.5).relu()) + 1.0).square().sum()

    compiled = torch.compile(loss, fullgraph=True, mode=mode)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        input.grad = None
        compiled(input).backward()

    with config.patch(decompose_custom_triton_ops=seen):
        for _ in range(5):
            step()
    torch.cuda.synchronize()
    return step


def _times(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            step()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            torch.cuda.synchronize()
            samples[name].append((time.perf_counter() - start) / STEPS * 1e6)
    return {name: statistics.median(times) for name, times in samples.items()}


if __name__ == "__main__":
    main()
