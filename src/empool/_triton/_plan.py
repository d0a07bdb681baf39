"""How a call is split into programs: sizes, divisors and tile shapes, worked out once for every shape."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import driver

from empool import _private
from empool._triton._tile import LANES
from empool._window import Geometry, adaptive_bounds

INDEX_LIMIT = 1 << 31
"""Tensors with so many elements need 64-bit indices."""
UNROLLED_WINDOW = 32
"""The most positions of a window that a program keeps in registers."""
UNROLLED_CELL = 16
"""The most positions of a cell of stride by stride inputs that the backward unrolls."""
MOST_CHANNELS = 256
"""The most channels of a tile, channels last."""
PROGRAMS = 400
"""So many programs, or more, keep all of a GPU busy."""
SHORT_ROW = 64
"""The most bytes of a row of windows, in the gradient, for a thread of the backward."""
BLOCK_OF_WINDOWS = 64
"""The most positions of a block of neighbouring windows, together, that a program keeps in registers."""
RANKED_REGION = 144
"""The most positions of all windows over a block of cells whose ranks a program counts."""
RANKED_WINDOW = 16
"""The most positions of a window whose ranks it counts."""
HAS_KNOWN_LAUNCHER = triton.__version__.startswith(("3.6.", "3.7."))
"""Whether a compiled kernel's `run`, which is private, takes what Triton gave it when this was written."""
UNTRACED = ("enable_fp_fusion", "maxnreg")
"""Options that PyTorch's compiler does not take."""
SORTED_WINDOW = 9
"""The most positions of a window that a program sorts, or ranks by pairs, in registers."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where the windows of a call lie, for three spatial dimensions, the missing ones of size 1; hashable."""

    images: int
    channels: int
    size: tuple[int, int, int]
    output: tuple[int, int, int]
    window: tuple[int, ...]  # Kernel size, stride, padding and dilation, three each; whether windows are adaptive.
    counts: tuple[int, ...]  # Of the table's rows; empty where there is no table.
    channels_last: bool
    itemsize: int

    @classmethod
    def of(
        cls,
        input: Sequence[int],
        output: Sequence[int],
        geometry: Geometry,
        channels_last: bool,
        itemsize: int,
        counts: Sequence[int] = (),
    ) -> Windows:
        """Describe a call from both tensors' sizes and where its windows lie."""
        missing = 5 - len(input)
        window = [
            value
            for numbers, default in zip(geometry[:4], (1, 1, 0, 1), strict=True)
            for value in [default] * missing + [*numbers]
        ]
        ones = (1,) * missing
        return cls(
            input[0],
            input[1],
            (*ones, *input[2:]),  # type: ignore[arg-type]
            (*ones, *output[2:]),  # type: ignore[arg-type]
            (*window, int(bool(geometry.output_size))),
            tuple(counts),
            channels_last,
            itemsize,
        )

    @property
    def adaptive(self) -> bool:
        """Whether windows are those of adaptive pooling."""
        return bool(self.window[12])

    @property
    def volume(self) -> int:
        """The number of positions in a window."""
        return math.prod(self.window[:3])

    @property
    def columns(self) -> tuple[int, int]:
        """The height and the number of a window's columns, those of all depths one below the other."""
        return self.window[0] * self.window[1], self.window[2]

    def bounds(self, dim: int, index: int) -> tuple[int, int]:
        """Return where a window begins along a dimension, and before which position it ends."""
        if self.adaptive:
            return adaptive_bounds(index, self.size[dim], self.output[dim])
        return index * self.window[3 + dim] - self.window[6 + dim], self.size[dim]

    @property
    def high(self) -> tuple[bool, ...]:
        """Whether a window has positions behind its end, for every dimension."""
        kernel, dilation = self.window[:3], self.window[9:12]
        last = (self.bounds(dim, self.output[dim] - 1) for dim in range(3))
        return tuple(
            self.adaptive or start + (k - 1) * d >= end
            for (start, end), k, d in zip(last, kernel, dilation, strict=True)
        )

    @functools.cached_property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """How many valid positions the windows of this call have along each dimension, ascending, 0 among them."""
        sides = []
        for dim in range(3):
            kernel, dilation = self.window[dim], self.window[9 + dim]
            side = set()
            for index in self._kinds(dim):
                start, end = self.bounds(dim, index)
                low = max(0, -(start // dilation))
                side.add(max(0, min(kernel, -(-(end - start) // dilation)) - low))
            sides.append(tuple(sorted(side)))
        return tuple(sides)

    def _kinds(self, dim: int) -> set[int]:
        """Return windows of a dimension that stand for all: those over a border, and the first over none."""
        size, output = self.size[dim], self.output[dim]
        if self.adaptive:  # They repeat.
            return set(range(output // max(math.gcd(size, output), 1)))
        kernel, stride, padding, dilation = self.window[dim:12:3]
        low = -(-padding // stride)
        high = max(0, -(-(size + padding - (kernel - 1) * dilation) // stride))
        return {*range(min(low + 1, output)), *range(high, output)}

    @property
    def rows(self) -> tuple[int, ...]:
        """The numbers of valid activations that windows hold, ascending, 0 left out, each with its row in the table."""
        deep, tall, wide = self.sides
        occurring = sorted({d * h * w for d in deep for h in tall for w in wide} - {0})
        last = len(self.counts) - 1
        return tuple(n for count in occurring for n in (count, min(bisect_left(self.counts, count), last)))

    @property
    def cover(self) -> tuple[int, ...]:
        """How many windows can hold one position, for every dimension."""
        if self.adaptive:
            return tuple(
                max(-(-(i + 1) * out // size) - i * out // size for i in range(size // max(math.gcd(size, out), 1)))
                for size, out in zip(self.size, self.output, strict=True)
            )
        return tuple((self.window[i] - 1) * self.window[9 + i] // self.window[3 + i] + 1 for i in range(3))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How a kernel is started for some sizes and geometry.

    Attributes:
        programs: their number.
        arguments: those of the kernel that depend on sizes and geometry alone, and options of the compiler.
        parts: among how many programs a channel's windows are split, where no program serves two channels.
        started: what started it before, by what else the compiled kernel depends on.
    """

    programs: int
    arguments: dict[str, Any]
    parts: int = 1
    started: dict[Any, tuple[Any, Any, tuple[Any, ...], tuple[Any, ...]]] = dataclasses.field(default_factory=dict)

    def of(self, **arguments: Any) -> Plan:
        """Return the plan with more arguments."""
        return Plan(self.programs, self.arguments | arguments, self.parts)


@functools.lru_cache(maxsize=4096)
def output_plan(
    kernel: Any,
    windows: Windows,
    lanes: bool = True,
    narrow: bool = False,
    channels: int = MOST_CHANNELS,
    lines: bool = False,
) -> Plan:
    """Plan a kernel whose programs cover the output.

    Args:
        narrow: whether, channels last, a thread has half as many channels, and so needs fewer registers.
        lanes: whether, channels last, a row serves `LANES` neighbouring outputs one after another. (Contiguous, it
            holds them side by side.)
        channels: how many a tile has at most, channels last.
        lines: whether, channels last, a row serves all of a line that a second block would not fill.
    """
    depths, heights, width = windows.output
    number = LANES.value
    if lines and windows.channels_last and number < width < 2 * number:
        number = width
    blocks = -(-width // number) if lanes or not windows.channels_last else width
    rows = windows.rows
    return _plan(
        kernel,
        windows,
        (depths, heights, blocks),
        narrow,
        channels,
        CHECKED=any(windows.high) or any(windows.window[6:9]),
        READ=_columns(windows),
        CHUNK=_chunk(windows),
        PACKED=is_packed(),
        NUMBER=number,
        ALIGNED=LANES.value if windows.channels_last and width % number == 0 else _aligned(windows, width),
        FLAT=_flat(windows),
        ROWS=rows or (0, 0),
        COUNTS=max(len(rows) // 2, 1),
        LEAST=tuple(min(side, default=0) for side in windows.sides),
        SIDES=windows.sides[2] or (0,),
        WIDTHS=max(len(windows.sides[2]), 1),
    )


@functools.lru_cache(maxsize=4096)
def output_line_plan(kernel: Any, windows: Windows) -> Plan:
    """Plan a kernel whose programs cover the output in whole lines, each of which is a row of the tile."""
    plan = output_plan(kernel, windows)
    lines = windows.images * windows.channels * windows.output[1]
    between = windows.window[4] * windows.size[2], windows.size[1] * windows.size[2]
    both = math.gcd(*between)
    arguments = plan.arguments | {"rows": lines}
    if "READ" in arguments:
        arguments["READ"] = (windows.output[2] - 1) * windows.window[5] + windows.window[2]
        arguments["CHUNK"] = min(both & -both, 16 // windows.itemsize)
    return Plan(-(-lines // arguments["BLOCK"]), arguments)


@functools.lru_cache(maxsize=4096)
def line_backward_plan(kernel: Any, windows: Windows) -> Plan:
    """Plan a kernel whose programs cover lines of cells, and know what lines of windows above and below send there."""
    arguments = output_line_plan(kernel, windows).arguments
    above, below = (windows.window[1] - 1 - windows.window[7]) // 2, (windows.window[7] + 1) // 2
    arguments = arguments | {"PLACES": places_of_cells(windows), "ABOVE": above, "BELOW": below}
    return Plan(-(-arguments["rows"] // (arguments["BLOCK"] - above - below)), arguments)


@functools.lru_cache(maxsize=4096)
def apart_line_plan(kernel: Any, windows: Windows) -> Plan:
    """Plan a kernel whose programs cover lines of cells, over which windows lie side by side."""
    plan = output_line_plan(kernel, windows)
    return plan.of(PLACES=places_of_cells(windows))


@functools.lru_cache(maxsize=4096)
def region_line_plan(kernel: Any, windows: Windows) -> Plan | None:
    """Plan a kernel whose programs cover the input in whole lines of cells, and read all windows over them, or None."""
    plan = region_plan(kernel, windows)
    if plan is None:
        return None
    lines = windows.images * windows.channels * windows.output[1]
    both = windows.size[2] * math.gcd(windows.window[4], windows.size[1])
    chunk = min(both & -both, 16 // windows.itemsize)
    programs = -(-lines // plan.arguments["BLOCK"])
    return Plan(programs, plan.arguments | {"rows": lines, "CHUNK": chunk, "PLACES": places_of_cells(windows)})


def has_lines(windows: Windows) -> bool:
    """Tell whether a thread can hold what a line of the output covers, as one stretch of contiguous memory."""
    columns = (windows.output[2] - 1) * windows.window[5] + windows.window[2]
    columns = max(columns, windows.size[2])  # What no window covers is read, too.
    return (
        _flat(windows) > 0
        and windows.output[2] <= 2 * LANES.value
        and windows.size[0] == windows.window[0] == windows.output[0] == 1
        and windows.window[9:] == (1, 1, 1, 0)
        and windows.window[1] * columns <= BLOCK_OF_WINDOWS
        and windows.volume <= SORTED_WINDOW
        and 0 < len(windows.sides[2]) <= 4
        and windows.sides[2][0] > 0
        and windows.images * windows.channels * math.prod(windows.size) < INDEX_LIMIT
    )


@functools.lru_cache(maxsize=4096)
def channel_plan(kernel: Any, windows: Windows, lines: bool = False) -> Plan:
    """Plan a kernel whose programs cover the output, by lines or not, each for one channel, or channels last for some.

    A program has several tiles, one after another, and at the end takes about half as long as for one. Of a half type,
    channels last, it has eight warps, and so writes half as many sums.
    """
    half = windows.itemsize == 2
    if lines:
        arguments = output_line_plan(kernel, windows).arguments
    else:
        arguments = output_plan(kernel, windows, narrow=True, channels=64, lines=half).arguments
    double = 2 if half and windows.channels_last else 1
    warps = 2 if half and not windows.channels_last else 4 * double  # Contiguous, two rows are computed together.
    arguments = arguments | {"BLOCK": arguments["BLOCK"] * double, "num_warps": warps}
    rows = arguments["rows"] // (1 if windows.channels_last else max(windows.channels, 1))
    groups = -(-windows.channels // arguments.get("CHANNELS", 1))
    tiles = -(-rows // arguments["BLOCK"])
    busy = [each for each in range(16, 0, -1) if each == 1 or -(-tiles // each) * groups * double >= PROGRAMS]
    each = min(busy, key=lambda each: -(-tiles // each) * (2 * each + 1))
    parts = -(-tiles // each)
    return Plan(parts * groups, arguments | {"rows": rows, "TILES": each}, parts)


@functools.lru_cache(maxsize=4096)
def input_plan(kernel: Any, windows: Windows, cells: bool) -> Plan:
    """Plan a kernel whose programs cover the input: by cells of stride by stride positions, or by positions."""
    stride = windows.window[3:6] if cells else (1, 1, 1)
    depths, heights, width = (-(-size // step) for size, step in zip(windows.size, stride, strict=True))
    blocks = width if windows.channels_last else -(-width // LANES.value)
    return _plan(
        kernel,
        windows,
        (depths, heights, blocks),
        depths=depths,
        heights=heights,
        COVERED=tuple(n <= o for n, o in zip((depths, heights, width), windows.output, strict=True)),
        PACKED=is_packed(),
        PAIRS=_pairs(windows) if cells and stride[2] == 2 else 0,
        ALIGNED=_aligned(windows, windows.size[2]),
        OUT_ALIGNED=_aligned(windows, windows.output[2]),
        COVER=windows.cover,
        ROWS=windows.rows or (0, 0),
        COUNTS=max(len(windows.rows) // 2, 1),
    )


@functools.lru_cache(maxsize=4096)
def region_plan(kernel: Any, windows: Windows) -> Plan | None:
    """Plan a kernel whose threads have four cells each, or all of a short line, and rank the windows over them.

    Depths are one by one. None where windows are adaptive, have several depths or are too large.
    """
    stride = windows.window[3:6]
    depths = windows.size[0]
    flat = depths == windows.output[0] and windows.window[0] == stride[0] == 1
    if windows.adaptive or not flat:
        return None
    spans, first, number, begin = _over_a_cell(windows)
    rows = max((number[1] - 1) * stride[1] + spans[1], begin[1] + stride[1])
    columns = max((LANES.value + number[2] - 2) * stride[2] + spans[2], begin[2] + LANES.value * stride[2])
    if rows * columns > RANKED_REGION:
        return None
    heights, width = (-(-windows.size[dim] // stride[dim]) for dim in (1, 2))
    cells = LANES.value
    if windows.channels_last and windows.itemsize < 8 and cells < width < 2 * cells:  # A second block would not fill.
        cells = width
    exist = heights <= windows.output[1] and width <= windows.output[2]
    plan = _plan(
        kernel,
        windows,
        (depths, heights, -(-width // cells)),
        True,
        64,
        depths=depths,
        heights=heights,
        REGION=(1, rows, columns, *stride, *begin, 1, 1, 1, 0),
        FIRST=tuple(first[1:]),
        NUMBER=tuple(number[1:]),
        CELLS=cells,
        WHOLE=exist and windows.size[1] % stride[1] == 0 and windows.size[2] % (cells * stride[2]) == 0,
        CHUNK=_chunk(windows),
        PACKED=is_packed(),
        PAIRS=_pairs(windows) if stride[2] == 2 else 0,
        ALIGNED=_aligned(windows, windows.size[2]),
        OUT_ALIGNED=_aligned(windows, windows.output[2]),
        ROWS=windows.rows or (0, 0),
        COUNTS=max(len(windows.rows) // 2, 1),
    )
    if "WHOLE" in plan.arguments and windows.channels % plan.arguments["CHANNELS"]:
        plan.arguments["WHOLE"] = False
    return plan


@functools.lru_cache(maxsize=4096)
def cells_plan(kernel: Any, windows: Windows) -> Plan | None:
    """Plan a kernel whose programs cover the input by cells, of which a thread has as many as let it read least.

    None where windows are not regular ones in two dimensions that fit, or where positions lie between them.
    """
    kernel_size, stride, dilation = (windows.window[i : i + 3] for i in (0, 3, 9))
    one_depth = windows.size[0] == windows.output[0] == kernel_size[0] == stride[0] == 1
    if windows.adaptive or not one_depth or dilation != (1, 1, 1) or any(map(operator.lt, kernel_size, stride)):
        return None
    spans, first, number, begin = _over_a_cell(windows)
    whole = [-(-windows.size[dim] // stride[dim]) for dim in (1, 2)]

    def region(cells: tuple[int, int]) -> list[int]:
        return [(cells[i] + number[1 + i] - 2) * stride[1 + i] + spans[1 + i] for i in range(2)]

    def parts(cells: tuple[int, int]) -> tuple[int, int]:
        return -(-whole[0] // cells[0]), -(-whole[1] // cells[1])

    lanes = LANES.value
    cells = 1, lanes
    if math.prod(region(cells)) > BLOCK_OF_WINDOWS:
        return None
    if windows.itemsize == 2:  # Of other types, registers suffice for no more.
        more = [(1, lanes + i) for i in (1, 2, 3)] if windows.channels_last else [(2, lanes)]
        fitting = [cells for cells in more if 2 * math.prod(region(cells)) <= 3 * BLOCK_OF_WINDOWS]
        cells = min([cells, *fitting], key=lambda cells: math.prod((*parts(cells), *region(cells))))
    steps = [cells[i] * stride[1 + i] for i in range(2)]
    full = [n if windows.size[i] % n == 0 and whole[i - 1] <= windows.output[i] else 0 for i, n in enumerate(steps, 1)]
    return _plan(
        kernel,
        windows,
        (1, *parts(cells)),
        True,
        64,
        depths=1,
        heights=parts(cells)[0],
        REGION=(1, *region(cells), 1, steps[0], stride[2], *begin, 1, 1, 1, 0),
        FIRST=tuple(first[1:]),
        NUMBER=tuple(number[1:]),
        TALL=cells[0],
        CELLS=cells[1],
        FULL=tuple(full),
        CHUNK=_chunk(windows),
        PACKED=is_packed(),
        PAIRS=_pairs(windows) if stride[2] == 2 else 0,
        ALIGNED=_aligned(windows, windows.size[2]),
        OUT_ALIGNED=_aligned(windows, windows.output[2]),
    )


@functools.lru_cache(maxsize=4096)
def line_plan(windows: Windows) -> Plan:
    """Plan a kernel whose threads have a row of windows each."""
    _, height, width = windows.output
    rows = windows.images * windows.channels * height
    block = 128
    arguments = {
        "rows": rows,
        "height": height,
        "height_magic": _magic(height)[0],
        "height_shift": _magic(height)[1],
        "WINDOW": windows.window,
        "FLAT": width,
        "PLACES": places_of_cells(windows),
        "PACKED": is_packed(),
        "BLOCK": block,
    }
    return Plan(-(-rows // block), arguments | {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False})


def places_of_cells(windows: Windows) -> int:
    """Return the power of two that holds what a row of cells of 2 by 2 inputs has, in 8 bytes each."""
    return triton.next_power_of_2(windows.output[2] * windows.itemsize // 2)


def is_packed() -> bool:
    """Tell whether kernels may use the GPUs' own instructions: NVIDIA's, for two bfloat16 numbers since Hopper.

    Of several GPUs all must have them, since a plan serves every GPU.
    """
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.version.hip:
        return False
    return all(torch.cuda.get_device_capability(device) >= (9, 0) for device in range(torch.cuda.device_count()))


def are_apart(windows: Windows) -> bool:
    """Tell whether windows lie side by side, share no activation, and end in no padding."""
    kernel, stride, padding, dilation = (windows.window[i : i + 3] for i in (0, 3, 6, 9))
    return (
        not windows.adaptive
        and kernel == stride
        and padding == (0, 0, 0)
        and dilation == (1, 1, 1)
        and not any(windows.high)
    )


def is_halved(windows: Windows) -> bool:
    """Tell whether the stride halves contiguous maps whose rows are short, and end amid what memory writes as one."""
    outputs = windows.images * windows.channels * math.prod(windows.output)
    return (
        not windows.channels_last
        and windows.itemsize < 8
        and windows.window[:12:3] == (1, 1, 0, 1)
        and windows.window[4:6] == (2, 2)
        and windows.window[10:12] == (1, 1)
        and windows.size == (1, 2 * windows.output[1], 2 * windows.output[2])
        and windows.output[2] % LANES.value != 0
        and windows.output[2] * windows.itemsize <= SHORT_ROW
        and outputs % 4 == 0  # The last draw ends a word of 32 bits.
        and 4 * outputs < INDEX_LIMIT
    )


def _aligned(windows: Windows, width: int) -> int:
    """Return which power of two, up to a block, divides a width; channels last, no kernel asks."""
    return 1 if windows.channels_last else math.gcd(width, LANES.value)


def _flat(windows: Windows) -> int:
    """Return the output's width if its blocks leave gaps, in whole lines of a program; 0 where `LANES` divide it."""
    lanes = LANES.value
    outputs = windows.images * windows.channels * math.prod(windows.output)
    blocks = -(-windows.output[2] // lanes)
    whole = 0 < blocks <= 8 and blocks & (blocks - 1) == 0 and outputs % lanes == 0 and 4 * outputs < INDEX_LIMIT
    return windows.output[2] if whole and not windows.channels_last and windows.output[2] % lanes else 0


def _over_a_cell(windows: Windows) -> tuple[list[int], list[int], list[int], list[int]]:
    """Look at the windows over a cell's positions, along each dimension.

    Returns:
        How many positions a window spans; which window is the first, counted from the cell's own; how many there are;
        and how far before the cell the first begins.
    """
    kernel_size, stride, padding, dilation = (windows.window[i : i + 3] for i in (0, 3, 6, 9))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    first = [-((k - 1 - p) // s) for k, s, p in zip(spans, stride, padding, strict=True)]
    last = [(s - 1 + p) // s for s, p in zip(stride, padding, strict=True)]
    number = [b - a + 1 for a, b in zip(first, last, strict=True)]
    begin = [p - a * s for a, s, p in zip(first, stride, padding, strict=True)]
    return spans, first, number, begin


def fills_registers(windows: Windows) -> bool:
    """Tell whether windows are so large, or read one by one, that with fewer channels a thread does not spill."""
    return 4 < windows.volume <= UNROLLED_WINDOW and (windows.volume > SORTED_WINDOW or not _columns(windows))


def _columns(windows: Windows) -> int:
    """Return how many columns of the input a block of windows covers; 0 if windows are read one by one."""
    columns = (LANES.value - 1) * windows.window[5] + windows.window[2]
    tiles = windows.window[0] * windows.window[1] * columns
    regular = not windows.adaptive and windows.window[11] == 1
    return columns if regular and tiles <= BLOCK_OF_WINDOWS else 0


def _chunk(windows: Windows) -> int:
    """Return how many columns are one access: as divide the width and a block's step, 16 bytes at most."""
    if windows.channels_last:
        return 1
    both = math.gcd(windows.size[2], LANES.value * windows.window[5])
    return min(both & -both, max(16 // windows.itemsize, 1))


def _pairs(windows: Windows) -> int:
    """Return the power of two, up to 8, that divides the width; 0 if two neighbours cannot be accessed as one."""
    aligned = math.gcd(windows.size[2], 2 * LANES.value)
    return 0 if windows.channels_last or aligned == 1 else aligned


def _plan(
    kernel: Any,
    windows: Windows,
    rows_of_plane: tuple[int, int, int],
    narrow: bool = False,
    most_channels: int = MOST_CHANNELS,
    **arguments: Any,
) -> Plan:
    depths, heights, blocks = rows_of_plane
    planes = windows.images * (1 if windows.channels_last else windows.channels)
    rows = planes * depths * heights * blocks
    elements = windows.images * windows.channels * max(math.prod(windows.size), math.prod(windows.output))
    wide = max(elements, rows * LANES.value) >= INDEX_LIMIT
    keeping = {"READ", "REGION"}
    block, channels = _tile(windows, not keeping.isdisjoint(kernel.arg_names), narrow, most_channels)
    programs = -(-rows // block) * (-(-windows.channels // channels) if windows.channels_last else 1)
    arguments.update(
        zip(("D", "H", "W", "OD", "OH", "OW"), (*windows.size, *windows.output), strict=True),
        rows=rows,
        C=windows.channels,
        blocks=blocks,
        WINDOW=windows.window,
        TABLE_ROWS=len(windows.counts),
        HIGH=windows.high,
        CHANNELS_LAST=windows.channels_last,
        DEEP=depths > 1,
        WIDE=wide,
        BLOCK=block,
        CHANNELS=channels,
    )
    divisors = (("blocks", blocks), ("plane", depths * heights), ("height", heights), ("channels", windows.channels))
    for name, divisor in divisors:
        arguments[f"{name}_magic"], arguments[f"{name}_shift"] = (0, 0) if wide else _magic(divisor)
    taken = {name: value for name, value in arguments.items() if name in kernel.arg_names}
    # Without fusion, a product and a sum round twice, as on every other device.
    return Plan(programs, taken | {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False})


def _tile(windows: Windows, keeps: bool, narrow: bool = False, most_channels: int = MOST_CHANNELS) -> tuple[int, int]:
    """Choose rows and channels of a tile, for four warps.

    Contiguous a thread has a row. Channels last it has 16 bytes of channels; of a half type 8 bytes where it keeps
    windows in registers.
    """
    if not windows.channels_last:
        return 128, 1
    # The widest that wastes a quarter at most.
    channels = next(
        width
        for width in (256, 128, 64, 32, 16, 8, 4, 2, 1)
        if width <= most_channels and -(-windows.channels // width) * width * 4 <= windows.channels * 5
    )
    elements = 8 if windows.itemsize == 2 and not keeps else 2 if narrow else 4
    return max(128 * elements // channels, 1), channels


@functools.lru_cache
def sorting_network(size: int) -> tuple[int, ...]:
    """Return Batcher's merge exchange (Knuth, 5.2.2, algorithm M) for so many values: pairs, one after another."""
    pairs: list[int] = []
    top = 1 << max(size - 1, 0).bit_length() >> 1
    step = top
    while step:
        other, rest, distance = top, 0, step
        while True:
            for i in range(size - distance):
                if i & step == rest:
                    pairs += [i, i + distance]
            if other == step:
                break
            distance, other, rest = other - step, other >> 1, step
        step >>= 1
    return tuple(pairs)


def merging_network(rows: int, columns: int) -> tuple[int, ...]:
    """Return a network that sorts so many columns of so many rows, one after another, which are sorted each."""
    if (rows, columns) == (3, 3):
        return ()  # `_rank.descending` knows a shorter one.
    return sorting_network(rows * columns)


def _magic(divisor: int) -> tuple[int, int]:
    """Return the multiplier (its 32 bits as a signed number) and shift with which `_tile.divide` divides."""
    shift = max(divisor - 1, 0).bit_length()
    multiplier = ((1 << 32) * ((1 << shift) - divisor)) // max(divisor, 1) + 1
    return signed32(multiplier), shift


def signed32(number: int) -> int:
    """Return the signed number with the same 32 bits, so that an argument's type does not depend on its value."""
    return number - (1 << 32) if number >= 1 << 31 else number


def launch(kernel: Any, plan: Plan, *tensors: Tensor) -> None:
    """Start a kernel on the current stream of the tensors' device, or put its start into the graph being traced."""
    if plan.programs == 0:
        return
    if _private.is_functional(tensors[0]):
        _trace(kernel, plan, tensors)
        return
    device = tensors[0].device.index
    if device is None or device == torch.cuda.current_device():
        _start(kernel, plan, tensors, device)
    else:
        with torch.cuda.device(device):
            _start(kernel, plan, tensors, device)


def _start(kernel: Any, plan: Plan, tensors: Sequence[Tensor], device: int | None) -> None:
    """Start a kernel: the first time as Triton does, which takes the host longer than many a kernel; then what it made.

    A compiled kernel depends on the plan, the tensors' types and whether their addresses are multiples of 16.
    """
    pointers = [tensor.data_ptr() for tensor in tensors]
    aligned = functools.reduce(operator.or_, pointers) % 16 == 0
    key = (device, *[tensor.dtype for tensor in tensors])
    started = plan.started.get(key) if aligned else None
    if started is None:
        compiled = kernel[(plan.programs,)](*tensors, **plan.arguments)
        if aligned and isinstance(compiled, CompiledKernel):
            rest = tuple(plan.arguments[name] for name in kernel.arg_names[len(tensors) :])
            plan.started[key] = compiled, *_launcher(compiled), rest
        return
    compiled, start, what, rest = started
    if HAS_KNOWN_LAUNCHER and not _has_hooks():
        start(plan.programs, 1, 1, driver.active.get_current_stream(device), *what, *pointers, *rest)
    else:
        compiled[(plan.programs, 1, 1)](*pointers, *rest)


def _launcher(compiled: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what starts a kernel, and what it takes after the grid and the stream.

    In Triton 3.6 `run` only asks whether there is memory to allocate, and calls what C++ made: that is called at once.
    """
    if not HAS_KNOWN_LAUNCHER:
        return None, ()
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    allocates = [getattr(run, f"{which}_scratch_size", None) != 0 for which in ("global", "profile")]
    if triton.__version__.startswith("3.6.") and not any(allocates):
        options = run.launch_cooperative_grid, run.launch_pdl
        return run.launch, (function, *options, None, None, metadata, None, None, None)
    return run, (function, metadata, None, None, None)


def _has_hooks() -> bool:
    """Tell whether something, such as a profiler, is called at every launch."""
    hooks = triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)  # Some are replaced by a function, or None.


def _trace(kernel: Any, plan: Plan, tensors: Sequence[Tensor]) -> None:
    """Put a kernel's start into the graph."""
    traceable = torch.library.wrap_triton(kernel)
    if traceable is kernel:
        raise TypeError(f"{kernel.__name__} is interpreted")
    options = {name: value for name, value in plan.arguments.items() if name not in UNTRACED}
    traceable[(plan.programs,)](*tensors, **options)
