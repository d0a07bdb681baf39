"""Predict, without a GPU, how near to a copy's speed each Triton kernel comes on an H100: a model, no measurement.

    python benchmarks/gpu_static.py [--json FILE] [--markdown FILE [--before REV]] [--only WORDS]

Kernels are compiled for sm_90 by Triton's own `ptxas` and disassembled. A warp scheduler starts one instruction a
cycle, and an instruction occupies what executes it: the ALU for two cycles (comparisons, selections, logic, sums of
three), the multipliers' heavy half for two (integer products, of which the wide ones take four, sums of two integers,
most moves, products of half types), either half for one (products and sums of float32), the converter for eight, and
the load-store unit, which four schedulers share, for four. (Nsight Compute on an H200 counts the same for 16 of the
kernels, within 3 %.) The time of the busiest, on 132 x 4 schedulers at 1.7 GHz, is set against that of the bytes, every
tensor moved once at 3.0 TB/s. "share" is the bytes' time over the larger of the two. Every instruction is counted once,
but for those that a condition jumps over: so this is good for kernels without loops, and for comparing two versions of
a kernel. `gpu_timing.py` measures.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

import empool
from empool import _window
from empool._triton import _operators

SHAPES = ((256, 64, 56, 56), (256, 256, 14, 14))
WINDOWS = {"2x2/2": (2, 2, 0), "3x3/2": (3, 2, 1)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": False, "NHWC": True}
UNITS = ("alu", "multiply", "convert", "memory")
SCHEDULERS, HERTZ, BYTES_A_SECOND = 132 * 4, 1.7e9, 3.0e12
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_MEMORY = re.compile("LDG|STG|LDS|STS|LDL|STL|LD|ST|SHFL|REDUX")
_CONVERTER = re.compile("F2F|F2I|I2F|FRND|MUFU|POPC|FLO|BREV")
_ELSEWHERE = re.compile("LDC|S2R|LDCU|R2UR|CS2R|BAR|BRA|EXIT|NOP|BSSY|BSYNC|WARPSYNC|CALL|RET|DEPBAR|BREAK|YIELD|U.*")
"""What none of the units counted does."""


@dataclass(frozen=True)
class Kernel:
    """What was compiled for one case, and what the model makes of it.

    Attributes:
        kernel, shape, window, dtype, layout: which it is.
        instructions: how many a thread has.
        alu, multiply, convert, memory: the cycles that a warp needs of the ALU, of the multipliers (of their heavy
            half, or of both if that is more), of the converter and of the load-store unit.
        registers, spills, shared: of a thread, bytes of a thread's stack if it is used, bytes of a program.
        accesses: loads and stores by their width.
        microseconds: by bytes, by instructions started, and by each unit.
        share: of a copy's speed.
    """

    kernel: str
    shape: tuple[int, ...]
    window: str
    dtype: str
    layout: str
    instructions: int
    alu: int
    multiply: int
    convert: int
    memory: int
    registers: int
    spills: int
    shared: int
    accesses: dict[str, int]
    microseconds: dict[str, float]
    share: float


_TABLE = "results/gpu-static/kernels.json"
_WHY = {
    "draw max-dropout": "every output ranks all nine activations exactly, equal ones by position. Contiguous, in a "
    "half type, it takes 131 instructions where the bytes allow 105: 13 to sort the window, 6 to pick the value, 26 to "
    "find its position among equal ones, 10 for the thresholds, 12 for the random number, 9 to pair two rows; the rest "
    "are indices, the table, loads and stores. Float32, channels last: 214 where the bytes allow 200. In 14x14 maps, "
    "channels last, one lane in eight idles (7 outputs in two blocks of 4).",
    "draw stochastic": "in contiguous maps of 14x14 one lane in eight idles, and lines are read in parts.",
    "mean stochastic": "as for draws.",
    "mean soft": "nine exponentials an output: each occupies the converter for eight cycles, and takes some seven more "
    "instructions for the range of denormal numbers, which the reference's rounding keeps.",
    "backward ensemble": "two kernels, whose times are added: one finds where each window's two largest activations "
    "lie, one collects gradients by cells, where each of nine pairs of window and position takes two comparisons and "
    "two sums, each window a row of the table, and padding.",
}
"""Why kernels stay below 95 %."""


def main() -> None:
    """Print a line for every kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the table to this file, with versions")
    parser.add_argument("--markdown", type=Path, help="write the table to this page")
    parser.add_argument("--before", metavar="REV", help="a git revision, whose table the page sets beside")
    parser.add_argument("--only", default="", help="kernels whose line has all of these words")
    arguments = parser.parse_args()
    found = []
    for kernel in kernels(arguments.only.split()):
        found.append(kernel)
        print(_line(kernel), flush=True)
    if arguments.json:
        content = {"versions": versions(), "kernels": [asdict(kernel) for kernel in found]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(_page(found, arguments.before))


def versions() -> dict[str, str]:
    """Return what the counts depend on."""
    return {"torch": torch.__version__, "triton": triton.__version__, "ptxas": _tool("ptxas", "--version").split()[-1]}


def kernels(words: list[str] | None = None) -> Iterator[Kernel]:
    """Compile the kernels whose description has all of the words."""
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
    )
    before = triton.runtime.driver._active, _operators.launch, os.environ.get("TRITON_CACHE_DIR")
    cache = tempfile.TemporaryDirectory()
    os.environ["TRITON_CACHE_DIR"] = cache.name
    triton.runtime.driver._active = driver
    try:
        for name, shape, window, dtype, layout in itertools.product(CALLS, SHAPES, WINDOWS, DTYPES, LAYOUTS):
            line = " ".join([name, "x".join(map(str, shape)), window, dtype, layout])
            if all(word in line for word in words or []):
                yield _compiled(name, shape, window, dtype, layout)
    finally:
        triton.runtime.driver._active, _operators.launch, folder = before
        os.environ.pop("TRITON_CACHE_DIR")
        if folder is not None:
            os.environ["TRITON_CACHE_DIR"] = folder
        cache.cleanup()


Call = Callable[[Tensor, Tensor, Any], None]


def _draw(distribution: empool.RankDistribution) -> Call:
    def call(input: Tensor, seed: Tensor, geometry: Any) -> None:
        counts = geometry.possible_counts()
        columns = len(distribution.threshold_table(counts)[0])
        table = torch.empty(1, len(counts), columns, dtype=torch.int64, device="meta")
        _operators.rank_draw(input, seed, table, counts, *geometry, 0)

    return call


def _mean(distribution: empool.RankDistribution, name: str = "rank_mean") -> Call:
    def call(input: Tensor, seed: Tensor, geometry: Any) -> None:
        counts = geometry.possible_counts()
        columns = len(distribution.weight_table(counts)[0])
        table = torch.empty(1, len(counts), columns, dtype=torch.float64, device="meta")
        before = [_output(input, geometry)] if name != "rank_mean" else []
        getattr(_operators, name)(*before, input, table, counts, *geometry)

    return call


def _value_draw(input: Tensor, seed: Tensor, geometry: Any) -> None:
    _operators.value_draw(input, seed, None, *geometry, 0)


def _value_mean(soft: bool) -> Call:
    def call(input: Tensor, seed: Tensor, geometry: Any) -> None:
        _operators.value_mean(input, torch.empty(1, device="meta") if soft else None, *geometry)

    return call


def _scatter(input: Tensor, seed: Tensor, geometry: Any) -> None:
    gradient = _output(input, geometry)
    drawn = torch.empty_like(gradient, dtype=torch.uint8)
    _operators.drawn_scatter(gradient, drawn, input.shape[2:], *geometry[:5])


def _output(input: Tensor, geometry: Any) -> Tensor:
    shape = (*input.shape[:2], *geometry.output_sizes(input.shape[2:]))
    return _window.dense(input.new_empty(shape), _window.is_channels_last(input))


CALLS: dict[str, Call] = {
    "draw ensemble": _draw(empool.EnsembleMax(0.1)),
    "draw max-dropout": _draw(empool.MaxDropout(0.2)),
    "scatter": _scatter,
    "mean ensemble": _mean(empool.EnsembleMax(0.1)),
    "mean average": _mean(empool.Average()),
    "draw stochastic": _value_draw,
    "mean stochastic": _value_mean(soft=False),
    "mean soft": _value_mean(soft=True),
    "backward ensemble": _mean(empool.EnsembleMax(0.1), "rank_mean_backward"),
}
_READS_AND_WRITES = {"draw": (1, 1, 1), "scatter": (1, 1, 1), "mean": (1, 1, 0), "backward": (2, 1, 0)}
"""How often a kernel moves tensors of the input's size, of the output's size, and bytes for draws."""


def _compiled(name: str, shape: tuple[int, ...], window: str, dtype: str, layout: str) -> Kernel:
    kernel_size, stride, padding = WINDOWS[window]
    geometry = _window.Geometry([kernel_size] * 2, [stride] * 2, [padding] * 2, [1, 1], [], False)
    input = _window.dense(torch.empty(shape, dtype=DTYPES[dtype], device="meta"), LAYOUTS[layout])
    found: list[tuple[Any, Any]] = []

    def launch(kernel: Any, plan: Any, *tensors: Tensor, **arguments: Any) -> None:
        found.append((kernel.warmup(*tensors, grid=(1,), **plan.arguments, **arguments), plan))

    _operators.launch = launch
    CALLS[name](input, torch.empty((), dtype=torch.int64, device="meta"), geometry)
    size = DTYPES[dtype].itemsize
    output = math.prod(_output(input, geometry).shape)
    inputs, outputs, draws = _READS_AND_WRITES[name.split()[0]]
    times = {"bytes": (size * (inputs * input.numel() + outputs * output) + draws * output) / BYTES_A_SECOND * 1e6}
    units: collections.Counter[str] = collections.Counter()
    accesses: collections.Counter[str] = collections.Counter()
    for compiled, plan in found:  # Two for what is found first and then used.
        its_units, its_accesses = _counted(compiled.asm["cubin"])
        units, accesses = units + its_units, accesses + its_accesses
        cycle = plan.programs * plan.arguments["num_warps"] / SCHEDULERS / HERTZ * 1e6
        for unit in ("all", *UNITS):
            kind = "instructions" if unit == "all" else unit
            times[kind] = times.get(kind, 0) + its_units[unit] * cycle
    resources = [_resources(compiled.asm["cubin"]) for compiled, _ in found]
    return Kernel(
        name,
        shape,
        window,
        dtype,
        layout,
        units["all"],
        *(units[unit] for unit in UNITS),
        max(registers for registers, _ in resources),
        sum(stack for _, stack in resources) if any(name.startswith(("LDL", "STL")) for name in accesses) else 0,
        max(compiled.metadata.shared for compiled, _ in found),
        dict(sorted(accesses.items())),
        {key: round(time, 1) for key, time in times.items()},
        round(times["bytes"] / max(times.values()), 3),
    )


def _counted(cubin: bytes) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Count a kernel's instructions, the cycles of what executes them, and accesses by width."""
    found = _executed(_tool("nvdisasm", "-c", binary=cubin))
    units: collections.Counter[str] = collections.Counter(all=len(found))
    accesses: collections.Counter[str] = collections.Counter()
    either = 0
    for name in found:
        base, *parts = name.split(".")
        if base in ("LDG", "STG", "LDS", "STS", "LDL", "STL"):
            accesses[f"{base}.{next((p for p in parts if p in ('64', '128', 'U8', 'S8', 'U16', 'S16')), '32')}"] += 1
        if base in ("FADD", "FMUL", "FFMA"):
            either += 1
        elif base in ("IMAD", "VIADD", "HADD2", "HMUL2", "HFMA2"):
            if "MMA" not in parts:  # Else the tensor unit executes it.
                units["multiply"] += 4 if "WIDE" in parts or "HI" in parts else 2
        elif _CONVERTER.fullmatch(base):
            units["convert"] += 8
        elif _MEMORY.fullmatch(base):
            units["memory"] += 4
        elif not _ELSEWHERE.fullmatch(base):
            units["alu"] += 2
    units["multiply"] = max(units["multiply"], units["multiply"] // 2 + either)
    return units, accesses


def _executed(assembly: str) -> list[str]:
    """List a kernel's instructions, but those that a condition jumps over: kernels do so with what is seldom.

    Where that stands last, after all threads of a program have met, threads leave before it.
    """
    found: list[str] = []
    until = None
    for line in assembly.splitlines():
        if until is not None:
            until = None if line.strip() == f"{until}:" else until
            continue
        jump = re.search(r"@!?U?P\w+\s+BRA(?:\.\w+)*\s+`\((\.L\w+)\)", line)
        if (match := _INSTRUCTION.match(line)) is not None:
            found.append(match.group(1))
            if match.group(1) == "EXIT" and "@" in line and any(name.startswith("BAR") for name in found):
                if "LDG" not in assembly[assembly.index(line) :]:
                    continue
                return found
        if jump is not None and f"\n{jump.group(1)}:" in assembly[assembly.index(line) :]:
            until = jump.group(1)
    return found[: max((i for i, name in enumerate(found) if name == "EXIT"), default=len(found)) + 1]


def _resources(cubin: bytes) -> tuple[int, int]:
    match = re.search(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", "-res-usage", binary=cubin))
    assert match is not None
    return int(match.group(1)), int(match.group(2))


def _tool(name: str, *options: str, binary: bytes | None = None) -> str:
    """Run one of the tools that Triton brings, on a binary if there is one."""
    command = [str(Path(triton.__file__).parent / "backends/nvidia/bin" / name), *options]
    if binary is None:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout


def _line(kernel: Kernel) -> str:
    times = " ".join(f"{name} {time:6.1f}" for name, time in kernel.microseconds.items())
    where = f"{'x'.join(map(str, kernel.shape)):13} {kernel.window} {kernel.dtype:4} {kernel.layout}"
    spills = f" spills {kernel.spills}" if kernel.spills else ""
    return f"{kernel.kernel:16} {where} {kernel.instructions:5} us: {times}  share {kernel.share:4.0%}{spills}"


def _short(kernel: Kernel) -> str:
    where = f"{kernel.shape[-1]}x{kernel.shape[-1]} {kernel.window} {kernel.dtype} {kernel.layout}"
    return f"{where} {kernel.share:.0%}"


def _page(found: list[Kernel], revision: str | None) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    fields = ("kernel", "shape", "window", "dtype", "layout")
    arrows = [
        f"*before -> after*: before is the table of `{revision}`, counted in the same way. Only shares compare: a "
        "thread may compute another number of outputs than before.",
        "",
    ]
    command = ["git", "show", f"{revision}:{_TABLE}"]
    earlier = json.loads(subprocess.check_output(command))["kernels"] if revision else []
    before = {tuple(str(kernel[field]) for field in fields): kernel for kernel in earlier}
    lines = [
        "# A static model of the Triton kernels",
        "",
        f"**A model, not a measurement.** `python benchmarks/gpu_static.py --json {_TABLE} "
        f"--markdown results/gpu-static/README.md{f' --before {revision}' if revision else ''}` compiled the kernels "
        "for an H100 (sm_90), counted their instructions "
        f"and wrote this page ({said}). The share is what the kernel reaches of a copy's speed if the model is right. "
        "`tests/test_gpu_static.py` holds ten rows' counts within a tenth, and their spills. Nsight Compute "
        "on an H200 counts the cycles of every unit as this model does, within 3 %, for 16 kernels. The model does not "
        "see waiting, so measured times (`results/gpu`) are longer.",
        "",
        *(arrows if revision else []),
        "| kernel | shape | window | type | layout | instructions | ALU cycles | registers | spills | share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kernel in found:
        row = asdict(kernel)
        was = before.get((kernel.kernel, str(list(kernel.shape)), kernel.window, kernel.dtype, kernel.layout))
        after = [row["instructions"], row["alu"], row["registers"], row["spills"], f"{row['share']:.0%}"]
        if was is not None:
            old = [was["instructions"], was["alu"], was["registers"], was["spills"], f"{was['share']:.0%}"]
            after = [f"{one} -> {other}" for one, other in zip(old, after, strict=True)]
        shape = "x".join(map(str, kernel.shape))
        cells = [kernel.kernel, shape, kernel.window, kernel.dtype, kernel.layout, *after]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    below = [kernel for kernel in found if kernel.share < 0.95]
    lines += ["", f"## Below 95 %: {len(below)} of {len(found)}", ""]
    for name, why in _WHY.items():
        if rows := [_short(kernel) for kernel in below if kernel.kernel == name]:
            lines.append(f"- **{name}** ({'; '.join(rows)}): {why}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
