"""Time poolings on a GPU beside PyTorch's and a copy: what a training step and an inference forward take there.

    python benchmarks/gpu_timing.py [--json FILE] [--quick] [--jobs 12] [--poolings max-dropout,soft,...]
    python benchmarks/gpu_timing.py --table BEFORE.json AFTER.json    # no GPU needed: two results as a table

Every call of a contestant works on another of several input sets, together four times as large as the L2 cache, and
keeps what it returns, so that nothing is read or written in the cache alone. Calls are captured in CUDA graphs that
last a millisecond at least and are replayed by turns; medians. "step" is forward and backward through autograd, the
seed's kernel included; "draw", "scatter" and "mean" are one kernel each; "backward" is that of "mean", and "gradients"
are those of the input and of learned weights. The share in brackets is that of a large copy's bandwidth which a
contestant reaches if every tensor is moved once. Lines are printed, and the file is written, case by case. Ensemble
max-pooling is timed in all cases, then other poolings in a few.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import json
import math
import multiprocessing
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import empool

SHAPES = ((256, 64, 56, 56), (256, 256, 14, 14), (64, 64, 112, 112))
WINDOWS = {"2x2/2": (2, 2, 0), "3x3/2": (3, 2, 1)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
CASES = tuple(itertools.product(SHAPES, WINDOWS, DTYPES, LAYOUTS))
POOLINGS: dict[str, Callable[..., nn.Module]] = {
    "max-dropout": empool.MaxPoolDropout2d,
    "average": functools.partial(empool.RankPool2d, distribution=empool.Average()),
    "stochastic": empool.StochasticPool2d,
    "soft": empool.SoftPool2d,
    "learned": empool.LearnedRankPool2d,
}
"""The others, which are timed on the first shape with the larger window."""
PHASES = ("draw", "mean", "backward")
_SAME = {("average", "draw"), ("learned", "draw"), ("learned", "mean"), ("max-dropout", "backward")}
"""What has the kernels of something else that is timed."""
SECONDS, FEW, MOST, REPLAYS = 1.3e-3, 4, 200, 9
"""How long a graph lasts, how few and how many calls it may hold, how often it is replayed."""
Case = tuple[tuple[int, int, int, int], str, str, str]
Work = tuple[Case, list[str]]
"""A case, and whose: `ensemble` alone, or other poolings."""
Call = Callable[[int], Any]
"""Does the work once, on the input set of this number, and returns what it allocated."""


def main() -> None:
    """Print a line for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write all results to this file")
    parser.add_argument("--quick", action="store_true", help="the first two shapes alone")
    parser.add_argument("--jobs", type=int, default=12, help="processes that compile the kernels first, side by side")
    parser.add_argument("--poolings", default=",".join(POOLINGS), help="which others to time, by comma")
    parser.add_argument("--table", nargs=2, metavar="FILE", help="print a table of two earlier results, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print(_table(*arguments.table))
        return
    cases = [case for case in CASES if not arguments.quick or case[0] != SHAPES[2]]
    poolings = [name for name in arguments.poolings.split(",") if name]
    others = [case for case in CASES if case[:2] == (SHAPES[0], "3x3/2")] if poolings else []
    work = [(case, ["ensemble"]) for case in cases] + [(case, poolings) for case in others]
    begun = time.perf_counter()
    if arguments.jobs:
        _compile(work, arguments.jobs)
    compiled = time.perf_counter() - begun
    clocks = _Clocks()
    gc.collect()
    gc.freeze()  # A capture collects garbage first, which so takes no time.
    properties = torch.cuda.get_device_properties(0)
    cache = getattr(properties, "L2_cache_size", 60 << 20)
    copy = _copy_bandwidth()
    about = {"device": properties.name, "torch": torch.__version__, "copy": copy, "l2": cache, "compiled": compiled}
    print(f"{properties.name}, torch {torch.__version__}, copy {copy / 1e12:.2f} TB/s, L2 {cache >> 20} MiB,", end=" ")
    print(f"compiled in {compiled:.0f} s; microseconds (share of the copy's bandwidth)")
    results: list[dict[str, Any]] = []
    more: list[dict[str, Any]] = []
    about |= {"results": results, "poolings": more}
    for case, which in work:
        try:
            result = _measured(case, which, cache, copy)
        except Exception as error:  # One case that fails, say for want of memory, is no reason to lose the others.
            result = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        result = {**dict(zip(("shape", "window", "dtype", "layout"), case, strict=True)), **result, **clocks.now()}
        (results if which == ["ensemble"] else more).append(result)
        _print(result)
        _save(arguments.json, about)
    about["small_calls"] = calls = _small_calls()
    print("a call on 1x8x4x4, microseconds of the host:", *(f"{name} {us:.1f}," for name, us in calls.items()))
    _save(arguments.json, about)


def _save(file: str | None, results: dict[str, Any]) -> None:
    if file:
        with open(file, "w") as opened:
            json.dump(results, opened, indent=1)


class _Clocks:
    """Watches the GPU's clocks, by nvidia-smi, where there is one."""

    FIELDS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")

    def __init__(self) -> None:
        self._line = ""
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(self.FIELDS)}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._line = line.strip()

    def now(self) -> dict[str, str]:
        return dict(zip(self.FIELDS, self._line.split(", "), strict=False))


def _compile(work: list[Work], jobs: int) -> None:
    """Fill the cache of compiled kernels, in processes side by side, with one image each; what takes longest first."""
    each = [(case, [name]) for case, which in reversed(work) for name in which]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        pool.map(_compile_one, each, chunksize=1)


def _compile_one(work: Work) -> None:
    ((_, *sizes), window, dtype, layout), which = work
    with contextlib.suppress(Exception):  # The error comes again, where it is reported.
        for call in _contestants(((1, *sizes), window, dtype, layout), which, 1).values():
            call(0)
    torch.cuda.synchronize()


def _copy_bandwidth() -> float:
    """Return the bytes a second, read and written together, of the fastest large copy, once the clocks are up."""
    source = torch.randn(1 << 27, device="cuda")
    begun = time.perf_counter()
    while time.perf_counter() - begun < 0.7:
        (source * 2).sum().item()
    seconds = [s for s in _medians({"clone": lambda _: source.clone(), "add": lambda _: source + 1}).values() if s]
    return 2 * source.nbytes / min(seconds)


def _contestants(case: Case, which: list[str], sets: int) -> dict[str, Call]:
    """Make the input sets, and return what is timed on them: all of ensemble max-pooling, or some others."""
    shape, window, dtype, layout = case
    kernel, stride, padding = WINDOWS[window]
    memory_format = LAYOUTS[layout]
    inputs = [
        torch.randn(shape, device="cuda").to(DTYPES[dtype]).contiguous(memory_format=memory_format).requires_grad_()
        for _ in range(sets)
    ]

    def forward(pool: Callable[[Tensor], Tensor]) -> Call:
        def call(i: int) -> Tensor:
            with torch.no_grad():
                return pool(inputs[i % sets])

        return call

    theirs = nn.MaxPool2d(kernel, stride, padding)
    gradients = [torch.randn_like(theirs(input)) for input in inputs]

    def backward(pool: Callable[[Tensor], Tensor], *parameters: Tensor) -> Call:
        outputs = [pool(input) for input in inputs]

        def call(i: int) -> Any:
            wanted = [inputs[i % sets], *parameters]
            return torch.autograd.grad(outputs[i % sets], wanted, gradients[i % sets], retain_graph=True)

        return call

    if which != ["ensemble"]:
        calls: dict[str, Call] = {}
        for name, phase in itertools.product(which, PHASES):
            if (name, phase) in _SAME:
                continue
            layer = POOLINGS[name](kernel, stride, padding).cuda().train(phase == "draw")
            learned = list(layer.parameters())
            if phase == "backward":
                calls[f"{name} {'gradients' if learned else phase}"] = backward(layer, *learned)
            else:
                layer.seed = torch.tensor(11, device="cuda")
                calls[f"{name} {phase}"] = forward(layer)
        return calls
    ours = empool.EnsembleMaxPool2d(kernel, stride, padding, p=0.1)
    evaluated = empool.EnsembleMaxPool2d(kernel, stride, padding, p=0.1).eval()
    seed = torch.tensor(11, device="cuda")

    def draw(input: Tensor) -> Tensor:
        return empool.functional.ensemble_max_pool2d(input, kernel, stride, padding, p=0.1, seed=seed)

    def step(pool: Callable[[Tensor], Tensor]) -> Call:
        def call(i: int) -> Any:
            output = pool(inputs[i % sets])
            return output, torch.autograd.grad(output, inputs[i % sets], gradients[i % sets])

        return call

    return {
        "step": step(ours),
        "max step": step(theirs),
        "mean": forward(evaluated),
        "backward": backward(evaluated),
        "max forward": forward(lambda input: F.max_pool2d(input, kernel, stride, padding)),
        "draw": forward(draw),
        "scatter": backward(draw),
        "max backward": backward(theirs),
        "copy": forward(Tensor.clone),
    }


def _bytes(case: Case) -> dict[str, int]:
    """Return what our contestants must move, every tensor once and a byte for every draw."""
    (images, channels, *sizes), window, dtype, _ = case
    kernel, stride, padding = WINDOWS[window]
    size = DTYPES[dtype].itemsize
    input = images * channels * math.prod(sizes)
    output = images * channels * math.prod((n + 2 * padding - kernel) // stride + 1 for n in sizes)
    draw = size * (input + output) + output
    return {
        "step": 2 * draw,
        "draw": draw,
        "scatter": draw,
        "mean": size * (input + output),
        "backward": size * (2 * input + output),
        "gradients": size * (3 * input + 2 * output),
        "copy": 2 * size * input,
    }


def _measured(case: Case, which: list[str], cache: int, copy: float) -> dict[str, Any]:
    size = math.prod(case[0]) * DTYPES[case[2]].itemsize
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # The graphs' too: a backward runs where its forward ran.
        seconds = _medians(_contestants(case, which, max(2, -(-4 * cache // size))), stream)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    moved = _bytes(case)
    shares = {n: moved[n.split()[-1]] / s / copy for n, s in seconds.items() if s and not n.startswith("max ")}
    pairs = {"step": "max step", "mean": "max forward", "scatter": "max backward", "backward": "max backward"}
    ratios = {one: seconds[one] / seconds[two] for one, two in pairs.items() if seconds.get(one) and seconds.get(two)}
    return {"seconds": seconds, "of_copy": shares, "ratios": ratios}


def _medians(calls: dict[str, Call], stream: Any = None) -> dict[str, float | None]:
    """Return each call's seconds: graphs of several calls, replayed by turns. None for what could not be captured."""
    stream = stream or torch.cuda.Stream()
    torch.cuda.synchronize()
    graphs: dict[str, tuple[Any, int, Any]] = {}
    for name, call in calls.items():
        try:
            graphs[name] = _captured(call, stream)
        except Exception as error:
            torch.cuda.synchronize()
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    shuffle = random.Random(0).shuffle
    for _ in range(REPLAYS + 2):
        turn = list(graphs.items())
        shuffle(turn)
        for name, (graph, number, _) in turn:
            samples[name].append(_elapsed(graph.replay, stream) / number)
    return {name: statistics.median(sample[2:]) if sample else None for name, sample in samples.items()}


def _captured(call: Call, stream: Any) -> tuple[Any, int, Any]:
    """Capture as many calls as last long enough; return the graph, their number and what they returned."""
    with torch.cuda.stream(stream):
        call(0)  # Compiles and loads, which no capture allows.
    graph, kept = _graph(call, FEW, stream)
    once = min(_elapsed(graph.replay, stream) for _ in range(3)) / FEW
    number = min(max(math.ceil(SECONDS / once), 2), MOST)
    if number > FEW:
        del graph, kept
        graph, kept = _graph(call, number, stream)
        return graph, number, kept
    return graph, FEW, kept


def _graph(call: Call, number: int, stream: Any) -> tuple[Any, Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [call(i) for i in range(number)]
    return graph, kept


def _elapsed(run: Callable[[], Any], stream: Any) -> float:
    with torch.cuda.stream(stream):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) * 1e-3


def _small_calls() -> dict[str, float]:
    """Return what the host needs for a forward without a seed's kernel, and for a layer's step; in microseconds."""
    input, seed = torch.randn(1, 8, 4, 4, device="cuda"), torch.tensor(1, device="cuda")
    leaf, gradient = input.clone().requires_grad_(), torch.randn(1, 8, 2, 2, device="cuda")
    ours, theirs = empool.EnsembleMaxPool2d(2).cuda(), nn.MaxPool2d(2)
    contestants: dict[str, Callable[[], Any]] = {
        "draw": lambda: empool.functional.ensemble_max_pool2d(input, 2, seed=seed),
        "mean": lambda: empool.functional.ensemble_max_pool2d(input, 2, training=False),
        "max": lambda: F.max_pool2d(input, 2),
        "step": lambda: torch.autograd.grad(ours(leaf), leaf, gradient),
        "max step": lambda: torch.autograd.grad(theirs(leaf), leaf, gradient),
    }
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for name, call in list(contestants.items()) * 7:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(300):
            call()
        samples[name].append((time.perf_counter() - start) / 300 * 1e6)
    return {name: statistics.median(sample) for name, sample in samples.items()}


def _print(result: dict[str, Any]) -> None:
    name = f"{'x'.join(map(str, result['shape'])):13} {result['window']} {result['dtype']:4} {result['layout']}"
    if "error" in result:
        print(name, result["error"], flush=True)
        return
    parts = []
    for contestant in result["seconds"]:
        if contestant.startswith("max "):
            continue
        seconds = result["seconds"][contestant]
        part = f"{contestant} " + (f"{seconds * 1e6:6.1f}" if seconds else "     -")
        part += f" ({result['of_copy'].get(contestant, math.nan):4.0%})"
        if contestant in result["ratios"]:
            part += f" {result['ratios'][contestant]:.2f} of max"
        parts.append(part)
    print(name, *parts, f"| {result.get('clocks.sm', '?')}/{result.get('clocks.mem', '?')} MHz", flush=True)


def _table(before: str, after: str) -> str:
    """Set two results side by side: microseconds before and after, what max-pooling takes, and the share of a copy."""
    earlier, later = (_read(file) for file in (before, after))
    names = {"step": "max step", "draw": None, "scatter": "max backward", "mean": "max forward"}
    lines = [
        "| shape | window | type | layout | step | of max | draw | of copy | backward | of copy "
        "| inference | of copy | of max |",
        "| --- " * 13 + "|",
    ]
    named = ("shape", "window", "dtype", "layout")
    known = {str([result[name] for name in named]): result for result in earlier["results"]}
    for second in later["results"]:
        first = known[str([second[name] for name in named])]
        us = {n: [f"{result['seconds'][n] * 1e6:.0f}" for result in (first, second)] for n in names}
        times = {name: " -> ".join(pair) for name, pair in us.items()}
        # Of the faster of the two copies: an earlier one was timed while the clocks were still low.
        copy = max(result["copy"] for result in (earlier, later))
        share = {n: f"{second['of_copy'][n] * later['copy'] / copy:.0%}" for n in names}
        ratio = {n: f"{second['ratios'][n]:.2f}" for n in ("step", "mean")}
        shape = "x".join(map(str, second["shape"]))
        where = f"| {shape} | {second['window']} | {second['dtype']} | {second['layout']} "
        lines.append(
            f"{where}| {times['step']} | {ratio['step']} | {times['draw']} | {share['draw']} "
            f"| {times['scatter']} | {share['scatter']} | {times['mean']} | {share['mean']} | {ratio['mean']} |"
        )
    return "\n".join(lines)


def _read(file: str) -> dict[str, Any]:
    with open(file) as opened:
        content: dict[str, Any] = json.load(opened)
    return content


if __name__ == "__main__":
    main()
