"""Times of the CPU kernels relative to PyTorch's max-pooling: training step, inference, and inference's backward.

One thread, processor time (so that a busy machine matters little), the contestants by turns, medians:

    python benchmarks/cpu_targets.py --windows "2,2,0;3,2,1" --dtypes float32,bfloat16

With --learned: the steps that train weights by rank or soft pooling's beta, one set of them a channel, relative to
max-pooling's step; and averages by rank, relative to average-pooling.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import empool
from empool._window import Geometry
from empool.bench import memory

METHODS: dict[str, Any] = {
    "ensemble:0.1": empool.EnsembleMax(0.1),
    "max-dropout:0.2": empool.MaxDropout(0.2),
    "stochastic-max:0.5": empool.StochasticMax(0.5),
    "ordinal:0.6,0.3,0.1": empool.Ordinal((0.6, 0.3, 0.1)),
    "stochastic": None,
    "soft:1": 1.0,
}
SAMPLE = 0.015
"""Seconds of a sample, at least."""
ops, aten = torch.ops.empool, torch.ops.aten


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the seconds of each call."""
    repeats, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        start = time.process_time()
        call()
        repeats[name] = max(1, int(SAMPLE / max(time.process_time() - start, 1e-6)))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.process_time() - start) / repeats[name])
    return {name: statistics.median(found) for name, found in times.items()}


def calls_of(
    method: Any, input: torch.Tensor, gradient: torch.Tensor, where: Geometry
) -> dict[str, Callable[[], object]]:
    """Return a method's training step, inference, and inference's backward."""
    seed, spatial = torch.tensor(1), list(input.shape[2:])
    if isinstance(method, empool.RankDistribution):
        counts = list(where.possible_counts())
        thresholds = torch.tensor([method.threshold_table(counts)], dtype=torch.int64)
        tables = (torch.tensor([method.weight_table(counts)], dtype=torch.float64), counts)
        draw, draws, mean, backward = ops.rank_draw, (thresholds, counts), ops.rank_mean, ops.rank_mean_backward
    else:
        tables = draws = (None if method is None else torch.tensor(method),)
        draw, mean, backward = ops.value_draw, ops.value_mean, ops.value_mean_backward

    def step() -> None:
        _, drawn = draw(input, seed, *draws, *where, 0)
        ops.drawn_scatter(gradient, drawn, spatial, *where[:5])

    return {
        "step": step,
        "inference": lambda: mean(input, *tables, *where),
        "backward": lambda: backward(gradient, input, *tables, *where),
    }


def learned_calls(input: torch.Tensor, gradient: torch.Tensor, where: Geometry) -> dict[str, Callable[[], object]]:
    """Return the training steps of layers with parameters, and the average by rank."""
    channels, counts = input.shape[1], list(where.possible_counts())
    weights = torch.rand(channels, len(counts), max(counts), dtype=torch.float64)
    for row, count in enumerate(counts):
        weights[:, row, count:] = 0
    beta = torch.rand(channels) + 0.5
    average = calls_of(empool.Average(), input, gradient, where)

    def ranks() -> None:
        ops.rank_mean(input, weights, counts, *where)
        ops.rank_mean_backward(gradient, input, weights, counts, *where)
        ops.rank_mean_weight_grad(gradient, input, weights, counts, *where)

    def soft() -> None:
        ops.value_mean(input, beta, *where)
        ops.value_mean_backward(gradient, input, beta, *where)
        ops.value_mean_beta_grad(gradient, input, beta, *where)

    return {
        "ranks step": ranks,
        "soft step": soft,
        "average inference": average["inference"],
        "average backward": average["backward"],
    }


def compare(
    shape: tuple[int, ...], window: tuple[int, int, int], layout: str, dtype: str, rounds: int, learned: bool
) -> str:
    """Measure one case; a line of Markdown for each method."""
    kernel, stride, padding = ([side] * 2 for side in window)
    input = torch.randn(shape).to(getattr(torch, dtype))
    if layout == "channels last":
        input = input.contiguous(memory_format=torch.channels_last)
    output, indices = aten.max_pool2d_with_indices(input, kernel, stride, padding)
    gradient, copy = torch.randn_like(output), torch.empty_like(input)

    def forward() -> object:
        return aten.max_pool2d_with_indices(input, kernel, stride, padding)

    def backward() -> object:
        return aten.max_pool2d_with_indices_backward(gradient, input, kernel, stride, padding, [1, 1], False, indices)

    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: copy.copy_(input),
        "max step": lambda: (forward(), backward()),
        "max inference": forward,
        "max backward": backward,
    }
    where = Geometry(kernel, stride, padding, [1, 1])
    what = f"{'x'.join(map(str, shape))}, {window[0]}x{window[0]}/{window[1]}, {layout}, {dtype}"
    if learned:
        average = (kernel, stride, padding, False, False)  # ceil_mode, count_include_pad
        calls |= {
            "avg inference": lambda: aten.avg_pool2d(input, *average),
            "avg backward": lambda: aten.avg_pool2d_backward(gradient, input, *average, None),
            **learned_calls(input, gradient, where),
        }
        found = medians(calls, rounds)
        ratios = [found[f"{name} step"] / found["max step"] for name in ("ranks", "soft")]
        ratios += [found[f"average {phase}"] / found[f"avg {phase}"] for phase in ("inference", "backward")]
        return f"| {what} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
    for name, method in METHODS.items():
        calls |= {f"{name} {phase}": call for phase, call in calls_of(method, input, gradient, where).items()}
    found = medians(calls, rounds)
    shown = [
        f"{found[f'{name} {phase}'] / found[f'max {phase}']:.2f}"
        for phase in ("step", "inference", "backward")
        for name in METHODS
    ]
    return f"| {what} | {found['max step'] / found['copy']:.1f} | " + " | ".join(shown) + " |"


def main(arguments: list[str]) -> None:
    """Print a table."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", default="2,2,0;3,2,1", help="kernel, stride, padding")
    parser.add_argument("--shapes", default="64x64x56x56,128x64x32x32,32x256x14x14")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--learned", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [f"{phase} {method}" for phase in ("step", "inf.", "bwd") for method in METHODS]
    names = ["max step / copy", *names]
    if options.learned:
        names = [
            "weights by rank, step",
            "soft with beta, step",
            "average inf. / avg-pooling",
            "average bwd / avg-pooling",
        ]
    print("| case | " + " | ".join(names) + " |")
    print("| :--- |" + " ---: |" * len(names))
    for dtype in options.dtypes.split(","):
        for window in options.windows.split(";"):
            for shape in options.shapes.split(","):
                for layout in ("contiguous", "channels last"):
                    sizes, sides = tuple(map(int, shape.split("x"))), tuple(map(int, window.split(",")))
                    line = compare(sizes, sides, layout, dtype, options.rounds, options.learned)  # type: ignore[arg-type]
                    print(line, flush=True)


if __name__ == "__main__":
    if os.environ.get("GLIBC_TUNABLES") != memory.REUSE["GLIBC_TUNABLES"]:  # Read when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **memory.REUSE})
    main(sys.argv[1:])
