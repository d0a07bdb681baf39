"""The operators: tensors are made dense, outputs allocated, and a kernel is started.

Which kernel, and how, depends on sizes, types and whole numbers alone. It is worked out once for all of them: to do so
at every call takes the host longer than many a kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from empool import _private, _window, reference
from empool._triton import _plan
from empool._triton._draw import _rank_draw_kernel
from empool._triton._draw_line import _rank_draw_line_kernel
from empool._triton._mean import _rank_mean_kernel
from empool._triton._mean_backward import _rank_mean_backward_any_kernel
from empool._triton._mean_backward_apart import (
    _rank_mean_backward_apart_kernel,
    _rank_mean_backward_apart_line_kernel,
)
from empool._triton._mean_backward_line import _rank_mean_backward_line_kernel
from empool._triton._mean_backward_once import _rank_mean_backward_once_kernel
from empool._triton._mean_line import _rank_mean_line_kernel
from empool._triton._plan import Plan, Windows, launch
from empool._triton._scatter import (
    _drawn_gather_kernel,
    _drawn_scatter_any_kernel,
    _drawn_scatter_kernel,
)
from empool._triton._scatter_line import _drawn_scatter_line_kernel
from empool._triton._table import MOST
from empool._triton._value import _value_draw_kernel
from empool._triton._value_line import _value_draw_line_kernel, _value_mean_line_kernel
from empool._triton._value_mean import _value_mean_kernel
from empool._triton._value_mean_backward import _value_mean_backward_any_kernel, _value_mean_backward_kernel
from empool._triton._value_mean_backward_line import _value_mean_backward_line_kernel
from empool._triton._value_mean_backward_once import _value_mean_backward_once_kernel
from empool._triton._weight_grad import _rank_mean_weight_grad_kernel
from empool._triton._weight_grad_line import _rank_mean_weight_grad_line_kernel
from empool._window import Geometry

WARP = 32
"""The threads of a warp, each of which can keep one weight for all of them."""
MOST_SUMS = 64
"""For how many counts and ranks together a program adds up the weights' gradient."""
KERNELS = (
    _rank_draw_kernel,
    _rank_draw_line_kernel,
    _value_draw_kernel,
    _value_draw_line_kernel,
    _drawn_scatter_kernel,
    _drawn_scatter_line_kernel,
    _drawn_scatter_any_kernel,
    _drawn_gather_kernel,
    _rank_mean_kernel,
    _rank_mean_line_kernel,
    _rank_mean_backward_any_kernel,
    _rank_mean_backward_apart_kernel,
    _rank_mean_backward_apart_line_kernel,
    _rank_mean_backward_line_kernel,
    _rank_mean_backward_once_kernel,
    _rank_mean_weight_grad_kernel,
    _rank_mean_weight_grad_line_kernel,
    _value_mean_kernel,
    _value_mean_line_kernel,
    _value_mean_backward_any_kernel,
    _value_mean_backward_kernel,
    _value_mean_backward_line_kernel,
    _value_mean_backward_once_kernel,
)

Made = TypeVar("Made")


class Start(NamedTuple):
    """How a call starts its kernels, and what it allocates.

    Attributes:
        plans: one for each kernel.
        shape, strides: the output's, or the input gradient's.
        dtype: of what else is allocated: of the offsets drawn, or for sums.
    """

    plans: tuple[Plan, ...]
    shape: Sequence[int]
    strides: Sequence[int]
    dtype: torch.dtype


def rank_draw(
    input: Tensor, seed: Tensor, thresholds: Tensor, counts: Sequence[int], *rest: Any
) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.rank_draw`."""
    input, channels_last = _dense(input)
    kernel, start = _known(
        _rank_draw, input.shape, input.dtype, channels_last, seed.numel(), thresholds.shape, counts, *rest
    )
    output, drawn = _empty(start, input), _empty(start, input, start.dtype)
    launch(kernel, start.plans[0], input, seed.contiguous(), thresholds.contiguous(), output, drawn)
    return output, drawn


def _rank_draw(
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    seeds: int,
    table: Sequence[int],
    counts: tuple[int, ...],
    *rest: Any,
) -> tuple[Any, Start]:
    windows, shape = _described(size, dtype, channels_last, counts, rest[:6])
    sets, _, columns = table
    method = draw_method(columns, windows.volume)
    network = _plan.merging_network(*windows.columns) if method == "ranks" else ()
    large = method in ("second", "ranks") and 1 < windows.volume <= _plan.SORTED_WINDOW
    half = large and dtype.itemsize == 2
    paired = half and not channels_last  # Two rows are computed together.
    most = 112 if half and channels_last else 128 if paired and method == "ranks" else 0
    known = {
        **_draws(windows, seeds, *rest[6:]),
        **_registers(most),
        "num_warps": 2 if paired else 4,
        "METHOD": method,
        "NETWORK": network or (0, 0),
        "EXCHANGES": len(network) // 2,
        "COLUMNS": columns,
        "SETS": sets != 1,
        "LOWEST": torch.finfo(dtype).min,
    }
    if large and columns <= MOST.value and _plan.has_lines(windows):
        kernel, plan = _rank_draw_line_kernel, _plan.output_line_plan(_rank_draw_line_kernel, windows)
    else:
        ranks = method == "ranks"
        kernel, plan = (
            _rank_draw_kernel,
            _plan.output_plan(
                _rank_draw_kernel,
                windows,
                narrow=ranks or _plan.fills_registers(windows),
                lines=ranks and dtype.itemsize == 2 and windows.volume > 4,
            ),
        )
    return kernel, Start(
        (plan.of(**known),), shape, _strides(shape, channels_last), reference.drawn_dtype(windows.volume)
    )


def value_draw(input: Tensor, seed: Tensor, beta: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.value_draw`."""
    input, channels_last = _dense(input)
    kernel, start = _known(_value_draw, input.shape, input.dtype, channels_last, seed.numel(), _beta(beta), *rest)
    output, drawn, seed = _empty(start, input), _empty(start, input, start.dtype), seed.contiguous()
    launch(kernel, start.plans[0], input, seed, seed if beta is None else beta.contiguous(), output, drawn)
    return output, drawn


def _value_draw(
    size: Sequence[int], dtype: torch.dtype, channels_last: bool, seeds: int, beta: str, *rest: Any
) -> tuple[Any, Start]:
    windows, shape = _described(size, dtype, channels_last, (), rest[:6])
    large = beta != "none" and windows.volume > 4
    narrow = (large and dtype.itemsize == 4) or _plan.fills_registers(windows)
    lines = large and dtype.itemsize == 2
    kernel, plan = _value_draw_kernel, _plan.output_plan(_value_draw_kernel, windows, narrow=narrow, lines=lines)
    registers = 0
    if _plan.has_lines(windows):
        kernel, plan = _value_draw_line_kernel, _plan.output_line_plan(_value_draw_line_kernel, windows)
    elif beta != "none" and channels_last and windows.volume <= 4:
        registers = 112
    elif lines and not channels_last and plan.arguments["READ"] * windows.columns[0] <= 27:
        registers = 64
    plan = plan.of(**_draws(windows, seeds, *rest[6:]), **_registers(registers), BETA=beta)
    return kernel, Start((plan,), shape, _strides(shape, channels_last), reference.drawn_dtype(windows.volume))


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_scatter`."""
    drawn, channels_last = _dense(drawn)
    grad_output = _window.dense(grad_output, channels_last)
    kernel, start = _known(
        _drawn_scatter, drawn.shape, drawn.dtype, grad_output.dtype, channels_last, input_size, *geometry
    )
    grad_input = _empty(start, grad_output)
    if kernel is _drawn_scatter_line_kernel:
        grad_output, drawn = _in_words(grad_output), _in_words(drawn)
    launch(kernel, start.plans[0], grad_output, drawn, grad_input)
    return grad_input


def _drawn_scatter(
    output: Sequence[int],
    draws: torch.dtype,
    dtype: torch.dtype,
    channels_last: bool,
    input_size: Sequence[int],
    *geometry: Any,
) -> tuple[Any, Start]:
    size = (*output[:2], *input_size)
    windows = Windows.of(size, output, Geometry(*geometry), channels_last, dtype.itemsize)
    kernel, cells = scatter_kernel(windows, draws)
    if kernel is _drawn_scatter_line_kernel:
        plan = _plan.line_plan(windows)
    else:
        plan = _plan.input_plan(kernel, windows, cells)
    return kernel, Start((plan,), size, _strides(size, channels_last), dtype)


def drawn_gather(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_gather`."""
    drawn, channels_last = _dense(drawn)
    input = _window.dense(input, channels_last)
    start = _known(_drawn_gather, input.shape, drawn.shape, input.dtype, channels_last, *geometry)
    output = _empty(start, input)
    launch(_drawn_gather_kernel, start.plans[0], input, drawn, output)
    return output


def _drawn_gather(
    size: Sequence[int], output: Sequence[int], dtype: torch.dtype, channels_last: bool, *geometry: Any
) -> Start:
    windows = Windows.of(size, output, Geometry(*geometry), channels_last, dtype.itemsize)
    plan = _plan.output_plan(_drawn_gather_kernel, windows, lanes=False)
    return Start((plan,), output, _strides(output, channels_last), dtype)


def rank_mean(input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any) -> Tensor:
    """Do as `empool.reference.rank_mean`."""
    input, channels_last = _dense(input)
    kernel, start = _known(_rank_mean, input.shape, input.dtype, channels_last, weights.shape, counts, *geometry)
    output = _empty(start, input)
    launch(kernel, start.plans[0], input, weights.contiguous(), output)
    return output


def _rank_mean(
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    table: Sequence[int],
    counts: tuple[int, ...],
    *geometry: Any,
) -> tuple[Any, Start]:
    windows, shape = _described(size, dtype, channels_last, counts, geometry)
    sets, _, columns = table
    method = "any"
    if columns <= 2 and windows.volume <= _plan.UNROLLED_WINDOW:
        method = ("first", "second")[columns - 1]
    elif columns <= windows.volume <= _plan.SORTED_WINDOW:
        method = "sorted"
    network = _plan.merging_network(*windows.columns) if method == "sorted" else ()
    large = method != "any" and 4 < windows.volume <= _plan.SORTED_WINDOW
    known = {
        "METHOD": method,
        "NETWORK": network or (0, 0),
        "EXCHANGES": len(network) // 2,
        "LOWEST": torch.finfo(dtype).min,
        "COLUMNS": columns,
        "SETS": sets != 1,
    }
    kernel = _rank_mean_kernel
    if method in ("second", "sorted") and columns > 1 and _plan.has_lines(windows):
        kernel = _rank_mean_line_kernel
        paired = dtype.itemsize == 2  # Two lines are computed together.
        known |= {"num_warps": 2 if paired else 4, **_registers(128 if paired and method == "sorted" else 0)}
        plan = _plan.output_line_plan(kernel, windows).of(**known)
    else:
        together = large and dtype.itemsize == 2 and not channels_last  # Two rows are computed together.
        narrow = (large and method == "second" and dtype.itemsize == 4) or _plan.fills_registers(windows)
        plan = _plan.output_plan(kernel, windows, narrow=narrow).of(num_warps=2 if together else 4, **known)
    return kernel, Start((plan,), shape, _strides(shape, channels_last), dtype)


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Do as `empool.reference.rank_mean_backward`."""
    input, channels_last = _dense(input)
    kernel, start = _known(
        _rank_mean_backward, input.shape, input.dtype, channels_last, weights.shape, counts, *geometry
    )
    grad_output = _window.dense(grad_output, channels_last)
    if kernel in (_rank_mean_backward_line_kernel, _rank_mean_backward_apart_line_kernel):
        grad_output = _in_words(grad_output)
    grad_input = input.new_empty_strided(input.shape, input.stride())
    launch(kernel, start.plans[0], grad_output, input, weights.contiguous(), grad_input)
    return grad_input


def _rank_mean_backward(
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    table: Sequence[int],
    counts: tuple[int, ...],
    *geometry: Any,
) -> tuple[Any, Start]:
    windows, shape = _described(size, dtype, channels_last, counts, geometry)
    sets, _, columns = table
    known: dict[str, Any] = {"COLUMNS": columns, "SETS": sets != 1}
    kernel, plan = _rank_mean_backward_any_kernel, None
    lines = windows.volume > 1 and _plan.has_lines(windows) and _plan.is_halved(windows)
    if _plan.are_apart(windows) and 1 < windows.volume <= _plan.SORTED_WINDOW:
        if lines:
            kernel = _rank_mean_backward_apart_line_kernel
            plan = _plan.apart_line_plan(kernel, windows)
        else:
            kernel = _rank_mean_backward_apart_kernel
            plan = _plan.input_plan(kernel, windows, cells=True)
    elif windows.volume <= _plan.RANKED_WINDOW and _has_cells(windows):
        kernel = _rank_mean_backward_line_kernel if lines else _rank_mean_backward_once_kernel
        plan = _plan.region_line_plan(kernel, windows) if lines else _plan.region_plan(kernel, windows)
        if plan is not None:
            packed = plan.arguments["PACKED"]
            half = packed and dtype.itemsize == 2
            known["BY_LANE"] = packed and sets == 1 and dtype.itemsize < 8 and sum(windows.rows[::2]) <= WARP
            # Of half types, a thread computes two neighbouring channels together, or two rows.
            known["num_warps"] = (4 if channels_last else 2) if half else (8 if channels_last else 4)
            if packed and (half if lines else channels_last and not half):
                known["maxnreg"] = 152 if lines else 96  # With what the compiler chooses itself, it spills some.
    if plan is None:
        kernel = _rank_mean_backward_any_kernel
        plan = _plan.input_plan(kernel, windows, cells=False)
    return kernel, Start((plan.of(**known),), shape, (), dtype)


def rank_mean_weight_grad(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Do as `empool.reference.rank_mean_weight_grad`; of windows too large for registers, by it."""
    input, channels_last = _dense(input)
    kernel, start, rows = _known(
        _rank_mean_weight_grad, input.shape, input.dtype, channels_last, weights.size(2), counts, *geometry
    )
    if start is None:
        return reference.rank_mean_weight_grad(grad_output, input, weights, counts, *geometry)
    sums, grad_output = input.new_empty(start.shape, dtype=start.dtype), _window.dense(grad_output, channels_last)
    if kernel is _rank_mean_weight_grad_line_kernel:
        grad_output = _in_words(grad_output)
    launch(kernel, start.plans[0], grad_output, input, sums)
    total = sums.sum((0,) if weights.size(0) != 1 else (0, 1), dtype=torch.float64)
    gradient = torch.zeros_like(weights)
    for index, row in enumerate(rows):
        gradient[:, row] = total[..., index, :]
    return gradient


def _rank_mean_weight_grad(
    size: Sequence[int],
    dtype: torch.dtype,
    channels_last: bool,
    columns: int,
    counts: tuple[int, ...],
    *geometry: Any,
) -> tuple[Any, Start | None, tuple[int, ...]]:
    windows, _ = _described(size, dtype, channels_last, counts, geometry)
    rows = windows.rows[1::2]
    if not (columns <= windows.volume <= _plan.SORTED_WINDOW and 0 < len(rows) * columns <= MOST_SUMS):
        return None, None, rows
    network = _plan.merging_network(*windows.columns)
    lines = dtype.itemsize == 2 and _plan.has_lines(windows)
    kernel = _rank_mean_weight_grad_line_kernel if lines else _rank_mean_weight_grad_kernel
    plan = _plan.channel_plan(kernel, windows, lines).of(
        NETWORK=network or (0, 0),
        EXCHANGES=len(network) // 2,
        COLUMNS=columns,
        LOWEST=torch.finfo(dtype).min,
        **_registers(128 if dtype.itemsize == 2 and channels_last else 0),
    )
    shape = (plan.parts, windows.channels, len(rows), columns)
    return kernel, Start((plan,), shape, (), torch.promote_types(dtype, torch.float32)), rows


def value_mean(input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Do as `empool.reference.value_mean`."""
    input, channels_last = _dense(input)
    kernel, start = _known(_value_mean, input.shape, input.dtype, channels_last, _beta(beta), *geometry)
    output = _empty(start, input)
    outputs = [output] * (1 if kernel is _value_mean_line_kernel else 3)
    launch(kernel, start.plans[0], input, input if beta is None else beta.contiguous(), *outputs)
    return output


def _value_mean(
    size: Sequence[int], dtype: torch.dtype, channels_last: bool, beta: str, *geometry: Any
) -> tuple[Any, Start]:
    windows, shape = _described(size, dtype, channels_last, (), geometry)
    if _plan.has_lines(windows):
        kernel, plan = _value_mean_line_kernel, _plan.output_line_plan(_value_mean_line_kernel, windows)
    else:
        kernel, plan = _value_mean_kernel, _plan.output_plan(_value_mean_kernel, windows).of(WRITES="mean")
    return kernel, Start((plan.of(BETA=beta),), shape, _strides(shape, channels_last), dtype)


def value_mean_backward(grad_output: Tensor, input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Do as `empool.reference.value_mean_backward`."""
    input, channels_last = _dense(input)
    kernel, start = _known(_value_mean_backward, input.shape, input.dtype, channels_last, _beta(beta), *geometry)
    grad_output, known = _window.dense(grad_output, channels_last), input if beta is None else beta.contiguous()
    kept = []
    if len(start.plans) == 2:
        kept = [_empty(start, input, start.dtype) for _ in range(3)]
        launch(_value_mean_kernel, start.plans[0], input, known, *kept)
    grad_input = input.new_empty_strided(input.shape, input.stride())
    if kernel is _value_mean_backward_line_kernel:
        grad_output = _in_words(grad_output)
    launch(kernel, start.plans[-1], grad_output, input, known, *kept, grad_input)
    return grad_input


def _value_mean_backward(
    size: Sequence[int], dtype: torch.dtype, channels_last: bool, beta: str, *geometry: Any
) -> tuple[Any, Start]:
    windows, _ = _described(size, dtype, channels_last, (), geometry)
    once = _plan.cells_plan(_value_mean_backward_once_kernel, windows)
    if once is not None:
        if _plan.has_lines(windows) and _plan.is_halved(windows):
            plan = _plan.line_backward_plan(_value_mean_backward_line_kernel, windows)
            return _value_mean_backward_line_kernel, Start((plan.of(BETA=beta),), size, (), dtype)
        return _value_mean_backward_once_kernel, Start((once.of(BETA=beta),), size, (), dtype)
    cells = _has_cells(windows)
    kernel = _value_mean_backward_kernel if cells else _value_mean_backward_any_kernel
    start = _value_mean_parts(size, dtype, channels_last, beta, "parts", *geometry)
    return kernel, start._replace(plans=(*start.plans, _plan.input_plan(kernel, windows, cells).of(BETA=beta)))


def value_mean_beta_grad(grad_output: Tensor, input: Tensor, beta: Tensor, *geometry: Any) -> Tensor:
    """Do as `empool.reference.value_mean_beta_grad`; the host adds up what the windows have."""
    input, channels_last = _dense(input)
    start = _known(_value_mean_parts, input.shape, input.dtype, channels_last, _beta(beta), "variance", *geometry)
    slope = _empty(start, input, start.dtype)
    launch(_value_mean_kernel, start.plans[0], input, beta.contiguous(), *[slope] * 3)
    channels = (grad_output * slope).sum((0, *range(2, slope.dim())), dtype=torch.float64)
    return (channels.sum() if beta.numel() == 1 else channels).reshape(beta.shape).to(beta.dtype)


def _value_mean_parts(
    size: Sequence[int], dtype: torch.dtype, channels_last: bool, beta: str, writes: str, *geometry: Any
) -> Start:
    windows, shape = _described(size, dtype, channels_last, (), geometry)
    plans = (_plan.output_plan(_value_mean_kernel, windows).of(BETA=beta, WRITES=writes),)
    return Start(plans, shape, _strides(shape, channels_last), torch.promote_types(dtype, torch.float32))


def draw_method(columns: int, volume: int) -> str:
    """Choose how `_rank_draw_kernel` finds the draw, by the number of thresholds: no p changes it."""
    if columns <= 1 and volume <= _plan.UNROLLED_WINDOW:
        return ("first", "second")[columns]
    return "ranks" if columns and volume <= _plan.SORTED_WINDOW else "any"


def scatter_kernel(windows: Windows, draws: torch.dtype) -> tuple[Any, bool]:
    """Choose the kernel of `drawn_scatter`, and tell whether its programs cover cells."""
    if _has_cells(windows):
        if _plan.is_halved(windows) and draws == torch.uint8:
            return _drawn_scatter_line_kernel, False
        return _drawn_scatter_kernel, True
    return _drawn_scatter_any_kernel, False


def _has_cells(windows: Windows) -> bool:
    """Tell whether a backward's programs cover cells of stride by stride positions."""
    stride = windows.window[3] * windows.window[4] * windows.window[5]
    return windows.volume <= _plan.UNROLLED_WINDOW and stride <= _plan.UNROLLED_CELL and not windows.adaptive


def _known(make: Callable[..., Made], *arguments: Any) -> Made:
    """Return what a function makes of sizes, types and whole numbers, made once."""
    try:
        return _made(make, *arguments)
    except TypeError:  # The dispatcher makes lists of tuples, which can't be looked up.
        return _made(make, *[tuple(each) if isinstance(each, list) else each for each in arguments])


@functools.lru_cache(maxsize=4096)
def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)


def _draws(windows: Windows, seeds: int, tied: int = 0, first_image: int = 0) -> dict[str, int]:
    """Return what a draw's kernel is told of its random numbers.

    Raises:
        ValueError: if the seeds do not divide the images.
    """
    if windows.images and (seeds == 0 or windows.images % seeds):
        raise ValueError(f"expected seeds that divide the {windows.images} images, got {seeds}")
    return {
        "share": windows.images // max(seeds, 1),
        "first_image": first_image,
        "SEEDS": seeds != 1,
        "TIED": tied,
    }


def _registers(most: int) -> dict[str, int]:
    """Return an option for kernels for which the compiler chooses too many registers, or so few that it spills."""
    return {"maxnreg": most} if most and _plan.is_packed() else {}


def _beta(beta: Tensor | None) -> str:
    return "none" if beta is None else "one" if beta.numel() == 1 else "channel"


def _described(
    size: Sequence[int], dtype: torch.dtype, channels_last: bool, counts: tuple[int, ...], geometry: Sequence[Any]
) -> tuple[Windows, tuple[int, ...]]:
    """Describe a call's windows; return the output's shape too."""
    where = Geometry(*geometry)
    shape = (*size[:2], *where.output_sizes(size[2:]))
    return Windows.of(size, shape, where, channels_last, dtype.itemsize, counts), shape


def _dense(input: Tensor) -> tuple[Tensor, bool]:
    """Return a tensor without gaps, and whether its channels lie side by side."""
    channels_last = _window.is_channels_last(input)
    return _window.dense(input, channels_last), channels_last


def _in_words(tensor: Tensor) -> Tensor:
    """Return a tensor that begins with a word of 32 bits: one in a graph most likely does."""
    return tensor if _private.is_functional(tensor) or tensor.data_ptr() % 4 == 0 else tensor.clone()


def _strides(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """Return a dense tensor's strides."""
    order = [0, *range(2, len(shape)), 1] if channels_last else list(range(len(shape)))
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def _empty(start: Start, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_empty_strided(start.shape, start.strides, dtype=dtype)
