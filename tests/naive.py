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


def _adaptive(size: int, output: int) -> list[tuple[int, int]]:
    """List where the windows of adaptive pooling along one dimension begin and end."""
    return [(math.floor(i * size / output), math.ceil((i + 1) * size / output)) for i in range(output)]


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
    output_size: Sequence[int] = (),
    ceil_mode: bool = False,
) -> tuple[list[int], list[Window]]:
    """Return the output's spatial sizes, and every window in order."""
    if output_size:
        return list(output_size), [
            sorted((offset, flat) for offset, flat in where.items())
            for where in _numbered(output_size, spatial, kernel_size, stride, padding, dilation, output_size)
        ]
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


def _number(seed: int, n: int, c: int, row: int, column: int, tied: int = 0, first_image: int = 0) -> int:
    if tied in (2, 3):
        row = column = 0
    return number(seed, n + first_image, 0 if tied in (1, 3) else c, row, column)


def rank_draw(input: Tensor, seed: int, thresholds: Tensor, counts: Sequence[int], *rest) -> tuple[Tensor, Tensor]:
    geometry, how = rest[:6], rest[6:]
    sizes, places = windows(input.shape[2:], *geometry)
    sets, columns = thresholds.tolist(), thresholds.size(-1)
    output, drawn = [], []
    for n, c, values in _images(input):
        for index, window in enumerate(places):
            rank = 0
            if columns and window:
                u = _number(seed, n, c, index // sizes[-1], index % sizes[-1], *how)
                rank = sum(u >= t for t in sets[c % len(sets)][counts.index(len(window))])
            nan = _last_nan(window, values)
            if nan is None and rank >= len(window):
                output.append(0.0 if window else -math.inf)
                drawn.append(None)
            else:
                offset, position = nan or _ranked(window, values)[rank]
                output.append(values[position])
                drawn.append(offset)
    return _tensors(input, sizes, output, drawn, math.prod(geometry[0]))


def _power_of_two(x: float, rounded: Callable[[float], float]) -> float:
    """Return 2^x for x <= 0 by the polynomial that every backend has, rounding after each product and sum."""
    if not x >= -126:
        return 0.0
    whole = math.floor(x)
    fraction, power = rounded(x - whole), 0.0
    for c in (
        "0x1.cacdf6p-13",
        "0x1.44bd44p-10",
        "0x1.3d5826p-7",
        "0x1.c67ee4p-5",
        "0x1.ebfdf8p-3",
        "0x1.62e428p-1",
        "1",
    ):
        power = rounded(rounded(power * fraction) + float.fromhex(c))
    return power * 2.0**whole


def _value_weights(values: Sequence[float], beta: float | None, rounded: Callable[[float], float]) -> list[float]:
    if beta is None:
        return [max(value, 0.0) for value in values]
    scores = [rounded(beta * value) if beta else 0.0 for value in values]
    largest, log2e = max(scores), rounded(1.4426950408889634)
    powers = [0.0 if s == largest else rounded(rounded(s - largest) * log2e) for s in scores]
    return [_power_of_two(power, rounded) for power in powers]


def value_draw(input: Tensor, seed: int, beta: Tensor | None, *rest) -> tuple[Tensor, Tensor]:
    geometry, how = rest[:6], rest[6:]
    betas = [None] if beta is None else beta.flatten().tolist()
    sizes, places = windows(input.shape[2:], *geometry)
    rounded = rounding(wide(input.dtype))
    output, drawn = [], []
    for n, c, values in _images(input):
        for index, window in enumerate(places):
            place = _last_nan(window, values)
            if place is None and window:
                sums, b = [0.0], betas[c % len(betas)]
                b = b if b is None else rounded(b)
                for weight in _value_weights([values[position] for _, position in window], b, rounded):
                    sums.append(rounded(sums[-1] + weight))
                share = rounded(_number(seed, n, c, index // sizes[-1], index % sizes[-1], *how)) * 2.0**-32
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
    output_size: Sequence[int] = (),
) -> list[dict[int, int]]:
    """Return, for so many windows, the flat position at every offset."""
    found = []
    for window in itertools.product(*map(range, output)):
        where = {}
        for offset, index in enumerate(itertools.product(*map(range, kernel_size))):
            flat, inside = 0, True
            for dim, (o, i, size) in enumerate(zip(window, index, spatial, strict=True)):
                at, end = o * stride[dim] - padding[dim] + i * dilation[dim], size
                if output_size:
                    start, end = _adaptive(size, output_size[dim])[o]
                    at = start + i
                flat, inside = flat * size + at, inside and 0 <= at < end
            if inside:
                where[offset] = flat
        found.append(where)
    return found


def _weighted(
    window: Window, values: Sequence[float], counts: Sequence[int], weights: Sequence[Sequence[float]], rounded
) -> list[tuple[float, int]]:
    """Return weight and flat position of the activations that take part, in rank order."""
    nan = _last_nan(window, values)
    if nan is not None:
        return [(1.0, nan[1])]
    ranked = _ranked(window, values)
    return [
        (rounded(weight), position)
        for weight, (_, position) in zip(weights[counts.index(len(window))], ranked, strict=False)
        if weight != 0
    ]


def _is_maximum(row: Sequence[float]) -> bool:
    return row[0] == 1 and not any(row[1:])


def rank_mean(input: Tensor, weights: Tensor, counts: Sequence[int], *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    to_wide, to_dtype = rounding(wide(input.dtype)), rounding(input.dtype)
    sets = weights.tolist()
    output = []
    for _, c, values in _images(input):
        table = sets[c % len(sets)]
        for window in places:
            if not window:
                output.append(-math.inf)
                continue
            terms = _weighted(window, values, counts, table, to_wide)
            if _is_maximum(table[counts.index(len(window))]):
                output.append(values[terms[0][1]])
                continue
            total = 0.0
            for weight, position in terms:
                total = to_wide(total + to_wide(weight * values[position]))
            output.append(to_dtype(total))
    return torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(*input.shape[:2], *sizes)


def rank_mean_backward(grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry) -> Tensor:
    _, places = windows(input.shape[2:], *geometry)
    sets = weights.tolist()
    maximum = all(_is_maximum(row) for table in sets for row in table)
    to_sum, to_dtype = rounding(input.dtype if maximum else wide(input.dtype)), rounding(input.dtype)
    gradients = grad_output.to(torch.float64).flatten(2).tolist()
    rows = []
    for n, c, values in _images(input):
        row = [0.0] * len(values)
        for window, gradient in zip(places, gradients[n][c], strict=True):
            if window:
                for weight, position in _weighted(
                    window, values, counts, sets[c % len(sets)], rounding(wide(input.dtype))
                ):
                    row[position] = to_sum(row[position] + to_sum(weight * gradient))
        rows.append([to_dtype(value) for value in row])
    return torch.tensor(rows, dtype=torch.float64).to(input.dtype).reshape(input.shape)


def rank_mean_jvp(tangent: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    tangents, sets = tangent.to(torch.float64).flatten(2).tolist(), weights.tolist()
    output = [
        sum(
            weight * tangents[n][c][position]
            for weight, position in _weighted(window, values, counts, sets[c % len(sets)], float)
        )
        if window
        else 0.0
        for n, c, values in _images(input)
        for window in places
    ]
    return torch.tensor(output, dtype=torch.float64).to(tangent.dtype).reshape(*input.shape[:2], *sizes)


def rank_mean_weight_grad(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry
) -> Tensor:
    _, places = windows(input.shape[2:], *geometry)
    gradients = grad_output.to(torch.float64).flatten(2).tolist()
    total = torch.zeros(weights.shape, dtype=torch.float64).tolist()
    for n, c, values in _images(input):
        for window, gradient in zip(places, gradients[n][c], strict=True):
            if window and _last_nan(window, values) is None:
                row = total[c % len(total)][counts.index(len(window))]
                for rank, (_, position) in enumerate(_ranked(window, values)[: len(row)]):
                    row[rank] += gradient * values[position]
    return torch.tensor(total, dtype=torch.float64).to(weights.dtype).reshape(weights.shape)


def value_mean(input: Tensor, beta: Tensor | None, *geometry) -> Tensor:
    sizes, places = windows(input.shape[2:], *geometry)
    betas = [None] if beta is None else beta.double().flatten().tolist()
    output = []
    for _, c, values in _images(input):
        for window in places:
            held, b = [values[at] for _, at in window], betas[c % len(betas)]
            if b is None:
                weights = held = [value if math.isnan(value) else max(value, 0.0) for value in held]
            else:
                scores = [b * value if b else 0.0 for value in held]
                largest = max(scores, default=0.0)
                weights = [1.0 if score == largest else math.exp(score - largest) for score in scores]
            total = math.fsum(weights)
            infinite = b is None and math.inf in held and not math.isnan(total)
            terms = [w * value for w, value in zip(weights, held, strict=True) if w != 0]
            mean = sum(terms) / total if total else 0.0
            output.append(math.inf if infinite else mean)
    return torch.tensor(output, dtype=torch.float64).to(input.dtype).reshape(*input.shape[:2], *sizes)
