"""Predict, without a GPU, how near to a copy's speed each Triton kernel comes on an H100: a model, no measurement.

    python benchmarks/gpu_static.py [--json FILE] [--markdown FILE [--before REV]] [--only WORDS]

Kernels are compiled for sm_90 by Triton's own `ptxas` and disassembled. A warp scheduler starts one instruction a
cycle, and an instruction occupies what executes it: the ALU for two cycles (comparisons, selections, logic, sums of
three), the multipliers' heavy half for two (integer products, of which the wide ones take four, sums of two integers,
most moves, products of half types), either half for one (products and sums of float32), the converter for eight, and
the load-store unit, which four schedulers share, for four. (Nsight Compute on an H200 counts the same for 16 of the
kernels, within 3 %.) A kernel takes as long as the busiest, on 132 x 4 schedulers at 1.7 GHz, or as memory takes to
move its tensors once at 3.0 TB/s; an operator takes as long as its kernels together. "share" is the time of a copy,
which moves the operator's inputs and outputs once, over that. Every instruction is counted once, but for those that a
condition jumps over, and for a loop over several tiles: so this is good for kernels without other loops, and for
comparing two versions of a kernel. `gpu_timing.py` measures.
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
UNITS = ("instructions", "alu", "multiply", "convert", "memory")
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
        microseconds: of a copy, of the tensors moved, of instructions started, and of each unit.
        limit: which of these takes longest.
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
    limit: str
    share: float


_TABLE = "results/gpu-static/kernels.json"


def main() -> None:
    """Print a line for every kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the table to this file, with versions")
    parser.add_argument("--markdown", type=Path, help="write the table to this page")
    parser.add_argument("--before", metavar="REV", help="a git revision, whose table the page sets beside")
    parser.add_argument("--only", default="", help="kernels whose line has all of these words; FILE keeps the others")
    arguments = parser.parse_args()
    made = {}
    if arguments.only and arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())["kernels"]
        made = {_case(kernel): kernel for kernel in (Kernel(**row | {"shape": tuple(row["shape"])}) for row in rows)}
    for kernel in kernels(arguments.only.split()):
        made[_case(kernel)] = kernel
        print(_line(kernel), flush=True)
    found = [made[case] for case in _CASES if case in made]
    if arguments.json:
        rows = ",\n".join(json.dumps(asdict(kernel)) for kernel in found)
        arguments.json.write_text(f'{{"versions": {json.dumps(versions())}, "kernels": [\n{rows}\n]}}\n')
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
        for name, shape, window, dtype, layout in _CASES:
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


def _mean(distribution: empool.RankDistribution, name: str = "rank_mean", dtype: torch.dtype = torch.float64) -> Call:
    def call(input: Tensor, seed: Tensor, geometry: Any) -> None:
        counts = geometry.possible_counts()
        columns = len(distribution.weight_table(counts)[0])
        table = torch.empty(1, len(counts), columns, dtype=dtype, device="meta")
        before = [_output(input, geometry)] if name != "rank_mean" else []
        getattr(_operators, name)(*before, input, table, counts, *geometry)

    return call


def _value(name: str, soft: bool) -> Call:
    def call(input: Tensor, seed: Tensor, geometry: Any) -> None:
        before = [_output(input, geometry)] if name == "value_mean_backward" else []
        drawn, tied = ([seed], [0]) if name == "value_draw" else ([], [])
        beta = torch.empty(1, device="meta") if soft else None
        getattr(_operators, name)(*before, input, *drawn, beta, *geometry, *tied)

    return call


def _scatter(input: Tensor, seed: Tensor, geometry: Any) -> None:
    gradient = _output(input, geometry)
    drawn = torch.empty_like(gradient, dtype=torch.uint8)
    _operators.drawn_scatter(gradient, drawn, input.shape[2:], *geometry[:5])


def _gather(input: Tensor, seed: Tensor, geometry: Any) -> None:
    _operators.drawn_gather(input, torch.empty_like(_output(input, geometry), dtype=torch.uint8), *geometry[:5])


def _output(input: Tensor, geometry: Any) -> Tensor:
    shape = (*input.shape[:2], *geometry.output_sizes(input.shape[2:]))
    return _window.dense(input.new_empty(shape), _window.is_channels_last(input))


CALLS: dict[str, Call] = {
    "draw ensemble": _draw(empool.EnsembleMax(0.1)),
    "draw max-dropout": _draw(empool.MaxDropout(0.2)),
    "draw stochastic": _value("value_draw", soft=False),
    "draw soft": _value("value_draw", soft=True),
    "scatter": _scatter,
    "gather": _gather,
    "mean ensemble": _mean(empool.EnsembleMax(0.1)),
    "mean average": _mean(empool.Average()),
    "mean stochastic": _value("value_mean", soft=False),
    "mean soft": _value("value_mean", soft=True),
    "backward ensemble": _mean(empool.EnsembleMax(0.1), "rank_mean_backward"),
    "backward average": _mean(empool.Average(), "rank_mean_backward"),
    "backward stochastic": _value("value_mean_backward", soft=False),
    "backward soft": _value("value_mean_backward", soft=True),
    "weights learned": _mean(empool.Average(), "rank_mean_weight_grad", torch.float32),
}
"""An operator and a pooling. Learned ranks have the kernels of "average"."""
_CASES = list(itertools.product(CALLS, SHAPES, WINDOWS, DTYPES, LAYOUTS))
_READS_AND_WRITES = {
    "draw": (1, 1, 1),
    "scatter": (1, 1, 1),
    "gather": (1, 1, 1),
    "mean": (1, 1, 0),
    "backward": (2, 1, 0),
    "weights": (1, 1, 0),
}
"""How often a copy moves tensors of the input's size, of the output's size, and bytes for draws."""


def _compiled(name: str, shape: tuple[int, ...], window: str, dtype: str, layout: str) -> Kernel:
    kernel_size, stride, padding = WINDOWS[window]
    geometry = _window.Geometry([kernel_size] * 2, [stride] * 2, [padding] * 2, [1, 1], [], False)
    input = _window.dense(torch.empty(shape, dtype=DTYPES[dtype], device="meta"), LAYOUTS[layout])
    found: list[tuple[Any, Any, int]] = []

    def launch(kernel: Any, plan: Any, *tensors: Tensor) -> None:
        moved = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
        found.append((kernel.warmup(*tensors, grid=(1,), **plan.arguments), plan, moved))

    _operators.launch = launch
    CALLS[name](input, torch.empty((), dtype=torch.int64, device="meta"), geometry)
    size = DTYPES[dtype].itemsize
    output = math.prod(_output(input, geometry).shape)
    inputs, outputs, draws = _READS_AND_WRITES[name.split()[0]]
    copied = size * (inputs * input.numel() + outputs * output) + draws * output
    times: collections.Counter[str] = collections.Counter()
    limits: collections.Counter[str] = collections.Counter()
    units: collections.Counter[str] = collections.Counter()
    accesses: collections.Counter[str] = collections.Counter()
    for compiled, plan, moved in found:  # Two for what is found first and then used.
        its_units, its_accesses = _counted(compiled.asm["cubin"], plan.arguments.get("TILES", 1))
        units, accesses = units + its_units, accesses + its_accesses
        cycle = plan.programs * plan.arguments["num_warps"] / SCHEDULERS / HERTZ
        its_times = {"moved": moved / BYTES_A_SECOND} | {unit: its_units[unit] * cycle for unit in UNITS}
        limit = max(its_times, key=its_times.__getitem__)
        limits[limit] += its_times[limit]
        times.update(its_times)
    resources = [_resources(compiled.asm["cubin"]) for compiled, *_ in found]
    return Kernel(
        name,
        shape,
        window,
        dtype,
        layout,
        *(units[unit] for unit in UNITS),
        max(registers for registers, _ in resources),
        sum(stack for _, stack in resources) if any(name.startswith(("LDL", "STL")) for name in accesses) else 0,
        max(compiled.metadata.shared for compiled, *_ in found),
        dict(sorted(accesses.items())),
        {name: round(time * 1e6, 1) for name, time in {"copy": copied / BYTES_A_SECOND, **times}.items()},
        limits.most_common(1)[0][0],
        round(copied / BYTES_A_SECOND / limits.total(), 3),
    )


def _counted(cubin: bytes, tiles: int = 1) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Count a kernel's instructions, the cycles of what executes them, and accesses by width."""
    found = _executed(_tool("nvdisasm", "-c", binary=cubin), tiles)
    units: collections.Counter[str] = collections.Counter(instructions=len(found))
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


def _executed(assembly: str, tiles: int = 1) -> list[str]:
    """List a kernel's instructions, but those that a condition jumps over: kernels do so with what is seldom.

    Where that stands last, after all threads of a program have met, threads leave before it. A loop is one over tiles.
    """
    found: list[str] = []
    labels: dict[str, int] = {}
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
        if (label := re.match(r"(\.L\w+):", line)) is not None:
            labels[label.group(1)] = len(found)
        if (back := re.search(r"BRA(?:\.\w+)*\s.*`\((\.L\w+)\)", line)) is not None and back.group(1) in labels:
            found += found[labels.pop(back.group(1)) :] * (tiles - 1)
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


def _case(kernel: Kernel) -> tuple[str, tuple[int, ...], str, str, str]:
    return kernel.kernel, kernel.shape, kernel.window, kernel.dtype, kernel.layout


def _line(kernel: Kernel) -> str:
    times = " ".join(f"{name} {time:6.1f}" for name, time in kernel.microseconds.items())
    where = f"{'x'.join(map(str, kernel.shape)):13} {kernel.window} {kernel.dtype:4} {kernel.layout}"
    spills = f" spills {kernel.spills}" if kernel.spills else ""
    return f"{kernel.kernel:19} {where} {kernel.instructions:5} us: {times}  share {kernel.share:4.0%}{spills}"


def _page(found: list[Kernel], revision: str | None) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    command = ["git", "show", f"{revision}:{_TABLE}"]
    earlier = json.loads(subprocess.check_output(command))["kernels"] if revision else []
    before = {(row["kernel"], tuple(row["shape"]), row["window"], row["dtype"], row["layout"]): row for row in earlier}
    places = list(itertools.product(SHAPES, DTYPES, LAYOUTS))
    lines = [
        "# A static model of the Triton kernels",
        "",
        f"**A model, not a measurement.** `python benchmarks/gpu_static.py --json {_TABLE} --markdown "
        f"results/gpu-static/README.md{f' --before {revision}' if revision else ''}` compiled the kernels for an H100 "
        f"(sm_90), counted their instructions and wrote this page ({said}). Nsight Compute on an H200 counts the "
        "cycles of every unit as this model does, within 3 %, for 16 kernels. `kernels.json` has all counts and the "
        "microseconds of every unit; `tests/test_gpu_static.py` holds ten rows' counts within a tenth, and their "
        "spills.",
        "",
        "The model doesn't see waiting, so measured times (`results/gpu`) are longer. It leaves out branches:",
        "",
        "- for infinities and NaN;",
        "- for equal values in draws of all ranks: in bfloat16 some 3 more instructions an output on average, of about "
        "100, where activations are normal, and 7 after a ReLU, by a simulation;",
        "- for windows of soft draws that are drawn again. One 3x3 window in 27,000 is, where the random number's "
        "share of the sum lies within an approximate sum's error: some 4 % more instructions (contiguous) to 18 % "
        "(channels last). So is each contiguous window whose scores are all some 70 below those of one of the three "
        "windows (of 14x14: six) that share powers with it: if all are, a draw takes three times as long.",
        "",
        "A cell is what a kernel reaches of a copy's speed, in percent, if the model is right. Below 95 it is bold, "
        "and what takes longest stands beside it: the ALU (comparisons, selections, logic), the multipliers, the "
        "converter, the load-store unit (*memory*), *instructions* started, or *moved*: what a first kernel writes "
        "for a second one, and tensors that both read."
        + (f" Before an arrow: at `{revision}`, counted in the same way; later rows have none." if before else ""),
        "",
        f"56x56 stands for {'x'.join(map(str, SHAPES[0]))}, 14x14 for {'x'.join(map(str, SHAPES[1]))}.",
        "",
        f"| kernel | {' | '.join(f'{shape[-1]}x{shape[-1]} {dtype} {layout}' for shape, dtype, layout in places)} |",
        f"| --- |{' ---: |' * len(places)}",
    ]
    made = {_case(kernel): kernel for kernel in found}
    for name, window in itertools.product(CALLS, WINDOWS):
        cases = [(name, shape, window, dtype, layout) for shape, dtype, layout in places]
        if any(case in made for case in cases):
            cells = [_cell(made.get(case), before.get(case)) for case in cases]
            lines.append(f"| {name} {window} | {' | '.join(cells)} |")
    below = sum(_is_below(kernel) for kernel in found)
    lines += ["", f"Below 95 %: {below} of {len(found)}."]
    if spilled := [f"{_short(kernel)}, {kernel.spills} bytes" for kernel in found if kernel.spills]:
        lines += ["", f"Registers do not suffice, and a thread keeps some bytes in memory: {'; '.join(spilled)}."]
    return "\n".join(lines) + "\n"


def _cell(kernel: Kernel | None, before: dict[str, Any] | None) -> str:
    if kernel is None:
        return ""
    share = f"{kernel.share * 100:.0f}"
    was = f"{before['share'] * 100:.0f}" if before is not None else share
    cell = f"**{share}** {kernel.limit}" if _is_below(kernel) else share
    return cell if was == share else f"{was} → {cell}"


def _is_below(kernel: Kernel) -> bool:
    return round(kernel.share, 2) < 0.95


def _short(kernel: Kernel) -> str:
    where = f"{kernel.shape[-1]}x{kernel.shape[-1]} {kernel.window} {kernel.dtype} {kernel.layout}"
    return f"{kernel.kernel} {where}"


if __name__ == "__main__":
    main()
