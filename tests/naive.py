"""The operators once more, window by window in Python's own numbers: nothing of the package takes part."""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Window = list[tuple[int, int]]
"""The valid activations of a window: offset in it, flat position in the image."""


def philox4x32_7(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    c, k = list(counter), list(key)
    for round in range(7):
        if round:
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b // 2**32 ^ c[1] ^ k[0], b % 2**32, a // 2**32 ^ c[3] ^ k[1], a % 2**32]
    return c


@functools.lru_cache(maxsize=20_000)
def _block(seed: int, n: int, c: int, row: int, block: int) -> list[int]:
    return philox4x32_7((block, row, c, n), (seed % 2**32, seed // 2**32 % 2**32))


def number(seed: int, n: int, c: int, row: int, column: int) -> int:
    """Return the 32-bit number of an output."""
    return _block(seed, n, c, row, column // 4)[column % 4]


def rounding(dtype: torch.dtype) -> Callable[[float], float]:
    """Return what rounds a float64 to the type."""

    def by_struct(code: str, value: float) -> float:
        try:
            result: float = struct.unpack(code, struct.pack(code, value))[0]
        except OverflowError:
            return math.copysign(math.inf, value)
        return result

    def to_bfloat16(value: float) -> float:
        if not math.isfinite(value):
            return value
        (word,) = struct.unpack("I", struct.pack("f", by_struct("f", value)))
        word = (word + 0x7FFF + (word >> 16 & 1)) & 0xFFFF0000
        result: float = struct.unpack("f", struct.pack("I", word))[0]
        return result

    return {
        torch.float64: lambda value: value,
        torch.float32: functools.partial(by_struct, "f"),
        torch.float16: functools.partial(by_struct, "e"),
        torch.bfloat16: to_bfloat16,
    }[dtype]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _starts(size: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> list[int]:
    """List where the windows along one dimension begin."""
    span, starts = d * (k - 1) + 1, [-p]
    while True:
        previous, start = starts[-1], starts[-1] + s
        fits = start + span <= size + p
        partly = ceil_mode and previous + span < size + p and start < size
        if not (fits or partly):
            return starts
        starts.append(start)


def windows(
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> tuple[list[int], list[Window]]:
    """Return the output's spatial sizes, and every window in order."""
    starts = [_starts(*each, ceil_mode) for each in zip(spatial, kernel_size, stride, padding, dilation, strict=True)]
    found = []
    for start in itertools.product(*starts):
        window = []
        for offset, index in enumerate(itertools.product(*map(range, kernel_size))):
            at = [b + i * d for b, i, d in zip(start, index, dilation, strict=True)]
            if all(0 <= a < size for a, size in zip(at, spatial, strict=True)):
                flat = 0
                for a, size in zip(at, spatial, strict=True):
                    flat = flat * size + a
                window.append((offset, flat))
        found.append(window)
    return [len(s) for s in starts], found


def _images(input: Tensor) -> Iterator[tuple[int, int, list[float]]]:
    images = input.to(torch.float64).flatten(2).tolist()
    for n, image in enumerate(images):
        for c, channel in enumerate(image):
            yield n, c, channel


def _ranked(window: Window, values: Sequence[float]) -> Window:
    return sorted(window, key=lambda place: -values[place[1]])  # Stable, and -0.0 == 0.0.


def _last_nan(window: Window, values: Sequence[float]) -> tuple[int, int] | None:
    return next((place for place in reversed(window) if math.isnan(values[place[1]])), None)


def _tensors(
    input: Tensor, sizes: Sequence[int], output: list[float], drawn: list[int], volume: int
) -> tuple[Tensor, Tensor]:
    shape = (*input.shape[:2], *sizes)
    small = volume <= 255
    drawn = [(255 if small else -1) if d is None else d for d in drawn]
    return (
        torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(shape),
        torch.tensor(drawn, dtype=torch.uint8 if small else torch.int32).reshape(shape),
    )


def rank_draw(
    input: Tensor, seed: int, counts: Sequence[int], thresholds: Sequence[int], *geometry
) -> tuple[Tensor, Tensor]:
    sizes, places = windows(input.shape[2:], *geometry)
    columns = len(thresholds) // len(counts)
    output, drawn = [], []
    for n, c, values in _images(input):
        for index, window in enumerate(places):
            rank = 0
            if columns and window:
                row = counts.index(len(window)) * columns
                u = number(seed, n, c, index // sizes[-1], index % sizes[-1])
                rank = sum(u >= t for t in thresholds[row : row + columns])
            nan = _last_nan(window, values)
            if nan is None and rank >= len(window):
                output.append(0.0 if window else -math.inf)
                drawn.append(None)
            else:
                offset, position = nan or _ranked(window, values)[rank]
                output.append(values[position])
                drawn.append(offset)
    return _tensors(input, sizes, output, drawn, math.prod(geometry[0]))


def value_draw(input: Tensor, seed: int, *geometry) -> tuple[Tensor, Tensor]:
    sizes, places = windows(input.shape[2:], *geometry)
    rounded = rounding(wide(input.dtype))
    output, drawn = [], []
    for n, c, values in _images(input):
        for index, window in enumerate(places):
            place = _last_nan(window, values)
            if place is None:
                sums = [0.0]
                for _, position in window:
                    sums.append(rounded(sums[-1] + max(values[position], 0.0)))
                share = rounded(number(seed, n, c, index // sizes[-1], index % sizes[-1])) * 2.0**-32
                target = rounded(share * sums[-1]) if sums[-1] > 0 else math.inf
                reached = [s > target or (s >= sums[-1] > 0) for s in sums[1:]]
                place = next((p for p, r in zip(window, reached, strict=True) if r), None)
            output.append(values[place[1]] if place else 0.0)
            drawn.append(place[0] if place else None)
    return _tensors(input, sizes, output, drawn, math.prod(geometry[0]))


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *window) -> Tensor:
    # The drawn offset says where, whatever windows ceil_mode added: lay them out by their number.
    places = _numbered(drawn.shape[2:], input_size, *window)
    rounded = rounding(grad_output.dtype)
    offsets = drawn.flatten(2).tolist()
    rows = []
    for n, c, gradients in _images(grad_output):
        row = [0.0] * math.prod(input_size)
        for gradient, offset, where in zip(gradients, offsets[n][c], places, strict=True):
            if offset in where:
                row[where[offset]] = rounded(row[where[offset]] + gradient)
        rows.append(row)
    shape = (*grad_output.shape[:2], *input_size)
    return torch.tensor(rows, dtype=torch.float64).to(grad_output.dtype).reshape(shape)


def drawn_gather(input: Tensor, drawn: Tensor, *window) -> Tensor:
    places = _numbered(drawn.shape[2:], input.shape[2:], *window)
    offsets = drawn.flatten(2).tolist()
    output = [
        values[where[offset]] if offset in where else 0.0
        for n, c, values in _images(input)
        for offset, where in zip(offsets[n][c], places, strict=True)
    ]
    return torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(drawn.shape)


def _numbered(
    output: Sequence[int],
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[dict[int, int]]:
    """Return, for so many windows, the flat position at every offset."""
    found = []
    for window in itertools.product(*map(range, output)):
        where = {}
        for offset, index in enumerate(itertools.product(*map(range, kernel_size))):
            flat, inside = 0, True
            for o, i, size, s, p, d in zip(window, index, spatial, stride, padding, dilation, strict=True):
                at = o * s - p + i * d
                flat, inside = flat * size + at, inside and 0 <= at < size
            if inside:
                where[offset] = flat
        found.append(where)
    return found


def _weighted(
    window: Window, values: Sequence[float], counts: Sequence[int], weights: Sequence[float], rounded
) -> list[tuple[float, int]]:
    """Return weight and flat position of the activations that take part, in rank order."""
    nan = _last_nan(window, values)
    if nan is not None:
        return [(1.0, nan[1])]
    columns = len(weights) // len(counts)
    row = counts.index(len(window)) * columns
    ranked = _ranked(window, values)
    return [
        (rounded(weight), position)
        for weight, (_, position) in zip(weights[row : row + columns], ranked, strict=False)
        if weight > 0
    ]


def rank_mean(input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    to_wide, to_dtype = rounding(wide(input.dtype)), rounding(input.dtype)
    maximum = len(weights) == len(counts) and set(weights) == {1.0}
    output = []
    for _, _, values in _images(input):
        for window in places:
            if not window:
                output.append(-math.inf)
                continue
            terms = _weighted(window, values, counts, weights, to_wide)
            if maximum:
                output.append(values[terms[0][1]])
                continue
            total = 0.0
            for weight, position in terms:
                total = to_wide(total + to_wide(weight * values[position]))
            output.append(to_dtype(total))
    return torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(*input.shape[:2], *sizes)


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry
) -> Tensor:
    _, places = windows(input.shape[2:], *geometry)
    maximum = len(weights) == len(counts) and set(weights) == {1.0}
    to_sum, to_dtype = rounding(input.dtype if maximum else wide(input.dtype)), rounding(input.dtype)
    gradients = grad_output.to(torch.float64).flatten(2).tolist()
    rows = []
    for n, c, values in _images(input):
        row = [0.0] * len(values)
        for window, gradient in zip(places, gradients[n][c], strict=True):
            if window:
                for weight, position in _weighted(window, values, counts, weights, rounding(wide(input.dtype))):
                    row[position] = to_sum(row[position] + to_sum(weight * gradient))
        rows.append([to_dtype(value) for value in row])
    return torch.tensor(rows, dtype=torch.float64).to(input.dtype).reshape(input.shape)


def rank_mean_jvp(tangent: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    tangents = tangent.to(torch.float64).flatten(2).tolist()
    output = [
        sum(weight * tangents[n][c][position] for weight, position in _weighted(window, values, counts, weights, float))
        if window
        else 0.0
        for n, c, values in _images(input)
        for window in places
    ]
    return torch.tensor(output, dtype=torch.float64).to(tangent.dtype).reshape(*input.shape[:2], *sizes)


def value_mean(input: Tensor, *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    output = []
    for _, _, values in _images(input):
        for window in places:
            positive = [value if math.isnan(value) else max(value, 0.0) for value in (values[at] for _, at in window)]
            total = math.fsum(positive)
            mean = math.fsum(value * value for value in positive) / total if total else 0.0
            output.append(math.inf if math.inf in positive and not math.isnan(total) else mean)
    return torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(*input.shape[:2], *sizes)
