"""The one list of named cases: window geometries, layouts, sizes and values that every operator is tested on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import empool
from empool import _window, reference
from empool._window import Geometry

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

DISTRIBUTIONS: dict[str, empool.RankDistribution] = {
    "max": empool.Max(),
    "average": empool.Average(),
    "ensemble": empool.EnsembleMax(0.3),
    "ensemble, always": empool.EnsembleMax(1.0),
    "max-dropout": empool.MaxDropout(0.4),
    "max-dropout, always": empool.MaxDropout(1.0),
    "stochastic-max": empool.StochasticMax(0.5),
    "ordinal": empool.Ordinal((0.5, 0.0, 0.3, 0.2)),
    "ordinal, third": empool.Ordinal((0.0, 0.0, 1.0)),
    "top-mean": empool.TopMean(3),
    "geometric": empool.Geometric(0.6),
    "mixed": empool.Mixed(0.5),
}
"""Rank distributions of every kind: one rank, two, several, all; with and without zeros; ranks of no weight."""

METHODS: dict[str, dict[str, Any]] = {
    "ensemble_max_pool": {"p": 0.3},
    "max_pool_dropout": {"p": 0.4},
    "stochastic_max_pool": {"drop": 0.5},
    "stochastic_pool": {},
    "soft_pool": {"beta": 0.7},
    "rank_pool": {"distribution": empool.Ordinal((0.5, 0.3, 0.2))},
}
"""Every method's function, without the number of dimensions, and its own arguments."""

LAYERS = {
    "ensemble_max_pool": "EnsembleMaxPool",
    "max_pool_dropout": "MaxPoolDropout",
    "stochastic_max_pool": "StochasticMaxPool",
    "stochastic_pool": "StochasticPool",
    "soft_pool": "SoftPool",
    "rank_pool": "RankPool",
}
"""Every function's layer, without the number of dimensions."""


@dataclass(frozen=True)
class Case:
    """An input and where the windows lie on it; sizes are one number for all dimensions or one for each."""

    name: str
    shape: tuple[int, ...]  # (N, C, *spatial)
    kernel_size: int | tuple[int, ...]
    stride: int | tuple[int, ...]
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    ceil_mode: bool = False
    layout: str = "contiguous"  # A key of LAYOUTS.
    values: str = "normal"  # A key of VALUES.
    output_size: tuple[int, ...] = ()  # Adaptive windows of so many; the sizes above are then derived.

    @property
    def dims(self) -> int:
        return len(self.shape) - 2

    @property
    def geometry(self) -> Geometry:
        sizes: tuple[Any, ...] = (self.kernel_size, self.stride, self.padding, self.dilation)
        if self.output_size:
            bounds = [
                [_window.adaptive_bounds(i, size, out) for i in range(out)]
                for size, out in zip(self.shape[2:], self.output_size, strict=True)
            ]
            sizes = ([max(end - start for start, end in each) for each in bounds], 1, 0, 1)
        numbers = [[s] * self.dims if isinstance(s, int) else list(s) for s in sizes]
        return Geometry(*numbers, list(self.output_size), self.ceil_mode)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `torch.nn.functional.max_pool2d` takes after the input."""
        return (*self.geometry[:4], self.ceil_mode)

    @property
    def counts(self) -> list[int]:
        return list(self.geometry.possible_counts(self.shape[2:]))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape[:2], *self.geometry.output_sizes(self.shape[2:]))

    @property
    def has_empty_windows(self) -> bool:
        """Whether a window holds padding only: PyTorch's indices then point outside the input."""
        where = _window.positions(self.geometry, self.shape[2:], self.output_shape[2:], torch.device("cpu"))
        return not bool(where[1].any(-1).all())

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, values: str, salt: str = "") -> Tensor:
        """Return a tensor in the case's layout, always the same one."""
        generator = torch.Generator().manual_seed(zlib.crc32((self.name + salt).encode()))
        return LAYOUTS[self.layout](VALUES[values](shape, generator).to(dtype))

    def input(self, dtype: torch.dtype) -> Tensor:
        return self.tensor(self.shape, dtype, self.values)

    def grad_output(self, dtype: torch.dtype) -> Tensor:
        return self.tensor(self.output_shape, dtype, "special" if self.values == "special" else "normal", "gradient")

    def __str__(self) -> str:
        return self.name


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator)


def _ties(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Few different values, zeros of both signs among them."""
    values = torch.tensor([-1.0, -0.0, 0.0, 1.0, 2.0])
    return values[torch.randint(5, tuple(shape), generator=generator)]


def _special(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """One in four is NaN, infinite or a zero, so that windows hold none, one or several of each."""
    values = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0])
    special = values[torch.randint(5, tuple(shape), generator=generator)]
    return torch.where(torch.rand(tuple(shape), generator=generator) < 0.25, special, _normal(shape, generator))


def _infinite(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Infinities alone."""
    return torch.where(torch.rand(tuple(shape), generator=generator) < 0.5, math.inf, -math.inf)


def _negative(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return -_normal(shape, generator).abs()


VALUES: dict[str, Callable[[Sequence[int], torch.Generator], Tensor]] = {
    "normal": _normal,
    "ties": _ties,
    "special": _special,
    "infinite": _infinite,
    "negative": _negative,
}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def _permuted(tensor: Tensor) -> Tensor:
    """The last dimension steps furthest."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


def _strided(tensor: Tensor) -> Tensor:
    """Every second element of something larger, which holds NaN elsewhere."""
    larger = torch.full([2 * size for size in tensor.shape], math.nan, dtype=tensor.dtype)
    return larger[tuple(slice(0, None, 2) for _ in tensor.shape)].copy_(tensor)


def _channels_last_strided(tensor: Tensor) -> Tensor:
    """Channels side by side, with gaps between the pixels."""
    sizes = [2 * size for size in tensor.shape]
    larger = _channels_last(torch.full(sizes, math.nan, dtype=tensor.dtype))
    return larger[
        (slice(None, tensor.size(0)), slice(None, tensor.size(1)), *[slice(1, None, 2)] * (tensor.dim() - 2))
    ].copy_(tensor)


def _offset(tensor: Tensor) -> Tensor:
    """Dense, but beginning one element after an aligned address."""
    return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)


def _expanded_channels(tensor: Tensor) -> Tensor:
    return tensor[:, :1].expand(tensor.shape)


def _expanded_images(tensor: Tensor) -> Tensor:
    return _channels_last(tensor)[:1].expand(tensor.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels last": _channels_last,
    "permuted": _permuted,
    "strided": _strided,
    "channels last, strided": _channels_last_strided,
    "offset": _offset,
    "expanded channels": _expanded_channels,
    "expanded images": _expanded_images,
}

GEOMETRIES = (
    # One dimension.
    Case("1d 2/2", (2, 3, 8), 2, 2),
    Case("1d 3/2 padded", (2, 3, 9), 3, 2, 1),
    Case("1d 3/1", (2, 3, 7), 3, 1),
    Case("1d dilated", (2, 3, 11), 3, 2, 1, 3),
    Case("1d ceil", (2, 3, 8), 3, 2, ceil_mode=True),
    Case("1d channels last", (2, 5, 9), 3, 2, 1, layout="channels last"),
    # Two dimensions.
    Case("2x2/2", (2, 3, 8, 10), 2, 2),
    Case("2x2/2 odd", (2, 3, 7, 9), 2, 2),
    Case("3x3/2", (2, 3, 9, 8), 3, 2),
    Case("3x3/2 padded", (2, 3, 9, 8), 3, 2, 1),
    Case("3x3/1", (2, 3, 6, 7), 3, 1),
    Case("3x3/1 padded", (2, 3, 6, 7), 3, 1, 1),
    Case("3x3/3", (1, 2, 9, 9), 3, 3),
    Case("1x1", (2, 3, 4, 5), 1, 1),
    Case("1x1/2", (2, 3, 4, 5), 1, 2),
    Case("asymmetric", (2, 3, 7, 9), (2, 3), (1, 2), (1, 0), (1, 2)),
    Case("dilated", (2, 3, 8, 9), 3, 1, 0, 2),
    Case("dilated, padded", (2, 3, 9, 7), 3, 2, 1, (2, 3)),
    Case("wider than the image", (2, 3, 2, 3), 5, 1, 2),
    Case("one pixel in the window", (2, 3, 1, 1), 3, 2, 1),
    Case("stride beyond the window", (2, 3, 11, 12), 2, 5),
    Case("stride beyond the window, padded", (2, 3, 9, 9), 2, 3, 1),
    Case("stride past the end", (2, 3, 3, 3), 2, 9),
    # The last window is partial, hangs over padding, or would begin beyond the input and is left out.
    Case("ceil 2x2/2", (2, 3, 7, 5), 2, 2, ceil_mode=True),
    Case("ceil 3x3/2", (2, 3, 8, 10), 3, 2, ceil_mode=True),
    Case("ceil 3x3/2 padded", (2, 3, 8, 7), 3, 2, 1, ceil_mode=True),
    Case("ceil, left out", (2, 3, 6, 8), 2, 3, 1, ceil_mode=True),
    Case("ceil, larger than the input", (2, 3, 2, 2), 3, 2, ceil_mode=True),
    Case("ceil, dilated", (2, 3, 10, 9), 3, 3, 1, 2, ceil_mode=True),
    Case("padding only", (2, 3, 3, 3), 2, 1, 1, 4),
    Case("padding only, at one side", (2, 3, 4, 9), (2, 3), (1, 2), (1, 1), (5, 1)),
    Case("padding only, channels last", (2, 3, 3, 5), 2, 1, 1, 4, layout="channels last"),
    # `drawn` holds one byte up to 255 positions.
    Case("255 positions", (1, 2, 16, 18), (15, 17), 1),
    Case("256 positions", (1, 2, 17, 18), 16, 1),
    Case("272 positions, padded", (1, 2, 12, 17), (16, 17), 3, (8, 2)),
    Case("272 positions, channels last", (1, 3, 17, 18), (16, 17), 1, layout="channels last"),
    # Three dimensions.
    Case("3d 2x2x2/2", (2, 3, 4, 5, 6), 2, 2),
    Case("3d 3x3x3/2 padded", (2, 3, 5, 4, 7), 3, 2, 1),
    Case("3d asymmetric", (1, 2, 5, 7, 6), (1, 2, 3), (2, 1, 3), (0, 1, 1), (1, 2, 1), ceil_mode=True),
    Case("3d channels last", (2, 3, 4, 5, 5), 3, 2, 1, layout="channels last"),
    Case("3d padding only", (1, 2, 3, 2, 4), (2, 1, 2), 1, (1, 0, 1), (4, 1, 2)),
    # Sizes of 0 and 1.
    Case("no images", (0, 3, 4, 4), 2, 2),
    Case("no images, channels last", (0, 3, 4, 4), 3, 2, 1, layout="channels last"),
    Case("1d no images", (0, 3, 4), 2, 2),
    Case("one channel", (2, 1, 6, 6), 3, 2, 1),
    Case("one channel, channels last", (2, 1, 6, 6), 3, 2, 1, layout="channels last"),
    Case("one pixel", (2, 3, 1, 1), 1, 1, layout="channels last"),
    Case("one column", (2, 3, 6, 1), (2, 1), (2, 1), layout="channels last"),
    # Layouts.
    *(
        Case(f"{name}, {layout}", (2, 5, 7, 10), *window, layout=layout)
        for name, window in {"2x2/2": (2, 2), "3x3/2 padded": (3, 2, 1)}.items()
        for layout in LAYOUTS
        if layout != "contiguous"
    ),
    Case("3d strided", (2, 3, 4, 5, 6), 2, 2, layout="strided"),
    Case("3x3/1 padded, channels last", (2, 5, 7, 10), 3, 1, 1, layout="channels last"),
    Case("ceil, dilated, channels last", (2, 5, 10, 9), 3, 3, 1, 2, ceil_mode=True, layout="channels last"),
    # Values.
    *(
        Case(f"{name}, {values}, {layout}", (2, 9, 11, 21), *window, layout=layout, values=values)
        for name, window in {"2x2/2": (2, 2), "3x3/2 padded": (3, 2, 1)}.items()
        for values in VALUES
        for layout in ("contiguous", "channels last")
    ),
    Case("wider than the image, special", (3, 5, 2, 3), 5, 1, 2, values="special"),
    Case("ceil, ties", (3, 5, 8, 8), 3, 2, ceil_mode=True, values="ties"),
    Case("256 positions, special", (1, 2, 17, 18), 16, 1, values="special"),
    Case("3d special", (2, 3, 5, 4, 7), 3, 2, 1, values="special"),
    Case("1d ties", (2, 5, 40), 3, 2, 1, values="ties"),
)
"""Every kind of window, layout and value, small."""

ADAPTIVE = (
    Case("adaptive 1d 3", (2, 3, 10), 0, 0, output_size=(3,)),
    Case("adaptive 1d 7 of 3", (2, 3, 3), 0, 0, output_size=(7,)),
    Case("adaptive 3x2", (2, 3, 7, 9), 0, 0, output_size=(3, 2)),
    Case("adaptive 3x2, channels last", (2, 5, 7, 9), 0, 0, output_size=(3, 2), layout="channels last"),
    Case("adaptive 5x7 of 3x10", (2, 3, 3, 10), 0, 0, output_size=(5, 7)),
    Case("adaptive 1x1", (2, 3, 7, 7), 0, 0, output_size=(1, 1)),
    Case("adaptive 2x2 of 5x5, special", (3, 4, 5, 5), 0, 0, output_size=(2, 2), values="special"),
    Case("adaptive 2x2 of 5x5, ties", (3, 4, 5, 5), 0, 0, output_size=(2, 2), values="ties", layout="channels last"),
    Case("adaptive 2x3 of 35x35", (1, 2, 35, 35), 0, 0, output_size=(2, 3)),
    Case("adaptive 7x7 of 17x18, strided", (2, 3, 17, 18), 0, 0, output_size=(7, 7), layout="strided"),
    Case("adaptive 3d", (2, 3, 4, 5, 7), 0, 0, output_size=(2, 3, 3)),
    Case("adaptive no images", (0, 3, 5, 5), 0, 0, output_size=(2, 2)),
)
"""Adaptive windows: uneven, more than the input has positions, one, and beyond 255 positions."""

ROW_ENDS = (
    *(Case(f"2x2/2, {w} wide", (1, 2, 4, 2 * w + w % 2), 2, 2) for w in range(1, 34)),
    *(Case(f"3x3/2 padded, {w} wide", (1, 2, 5, w), 3, 2, 1) for w in range(1, 34)),
    *(Case(f"3x3/1 padded, {w} wide", (1, 2, 3, w), 3, 1, 1) for w in (*range(1, 20), 31, 32, 33)),
    *(
        Case(f"{name}, {c} channels", (1, c, 5, 6), *window, layout="channels last")
        for name, window in {"2x2/2": (2, 2), "3x3/2 padded": (3, 2, 1)}.items()
        for c in (*range(1, 20), 31, 32, 33, 64, 65)
    ),
    *(Case(f"1d 3/2 padded, {w} wide", (1, 3, w), 3, 2, 1) for w in (*range(1, 20), 63, 64, 65)),
    # The last window has one column, in rows of whole vectors and not.
    *(Case(f"ceil 3x3/2 padded, {w} wide", (1, 2, 5, w), 3, 2, 1, ceil_mode=True) for w in (30, 32, 34)),
    # Several blocks of everything; rows shorter than a vector in a plane too large for the kernels of small planes.
    Case("2x2/2 tall and narrow", (1, 2, 400, 14), 2, 2),
    Case("3x3/2 padded, tall and narrow, special", (1, 2, 400, 14), 3, 2, 1, values="special"),
    Case("2x2/2 large", (2, 3, 20, 70), 2, 2),
    Case("3x3/2 padded large", (2, 3, 19, 69), 3, 2, 1),
    Case("2x2/2 large, channels last", (2, 70, 8, 10), 2, 2, layout="channels last"),
    Case("3x3/2 padded large, channels last", (2, 70, 7, 9), 3, 2, 1, layout="channels last"),
    Case("3x3/2 padded large, special", (2, 3, 19, 69), 3, 2, 1, values="special"),
    Case(
        "3x3/2 padded large, special, channels last", (2, 70, 7, 9), 3, 2, 1, layout="channels last", values="special"
    ),
)
"""Sizes around the widths of vectors and blocks, which fakes and derivatives know nothing of."""

REGULAR = GEOMETRIES + ROW_ENDS
"""The cases that `torch.nn.functional.max_pool2d` knows."""
CASES = GEOMETRIES + ADAPTIVE + ROW_ENDS

SMALL = tuple(case for case in GEOMETRIES if case.values == "normal" and math.prod(case.geometry.kernel_size) < 30)
"""Those that a derivative is checked on, by differences."""

assert len({case.name for case in CASES}) == len(CASES)

SEEDS = (0, 1, -1, 1234567890123456789, -(2**63), 2**63, 2**64 - 1)
"""Both words of the key empty, full, and of either sign."""


def function(stem: str, dims: int) -> Callable[..., Any]:
    """Return a method's function."""
    made: Callable[..., Any] = getattr(empool.functional, f"{stem}{dims}d")
    return made


def layer(stem: str, dims: int) -> type[torch.nn.Module]:
    """Return a method's layer."""
    made: type[torch.nn.Module] = getattr(empool, f"{LAYERS[stem]}{dims}d")
    return made


def tie_free(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return float64 values at least 0.1 apart, half of them negative, in random order."""
    count = math.prod(shape)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return ((order.to(torch.float64) - count / 2 + 0.25) / 10).reshape(tuple(shape))


Call = tuple[str, str, tuple[Any, ...]]
"""An operator's name, what is special about the call, and its arguments."""


BETAS: dict[str, tuple[float, ...]] = {"soft": (0.7,), "soft, negative": (-3.0,), "soft, average": (0.0,)}


def thresholds(distribution: empool.RankDistribution, counts: Sequence[int]) -> Tensor:
    """Return a distribution's table for draws."""
    return torch.tensor([distribution.threshold_table(counts)], dtype=torch.int64).reshape(1, len(counts), -1)


def weights(distribution: empool.RankDistribution, counts: Sequence[int]) -> Tensor:
    """Return a distribution's table for expectations."""
    return torch.tensor([distribution.weight_table(counts)], dtype=torch.float64)


def calls(case: Case, dtype: torch.dtype, distributions: Sequence[str] = tuple(DISTRIBUTIONS)) -> list[Call]:
    """List a call of every operator on the case, the draws and the means with each of the rank distributions."""
    input, grad_output, geometry, counts = case.input(dtype), case.grad_output(dtype), case.geometry, case.counts
    seed = torch.tensor(zlib.crc32(case.name.encode()) * 7919 - 2**40)
    window = geometry[:5]
    found: list[Call] = []
    channels = torch.linspace(-2, 2, case.shape[1])
    for name, beta in {
        "": None,
        **{name: torch.tensor(b) for name, b in BETAS.items()},
        "by channel": channels,
    }.items():
        found += [
            ("value_draw", name, (input, seed, beta, *geometry, 0)),
            ("value_mean", name, (input, beta, *geometry)),
            ("value_mean_backward", name, (grad_output, input, beta, *geometry)),
        ]
        if beta is not None:
            found.append(("value_mean_beta_grad", name, (grad_output, input, beta, *geometry)))
    tables = {
        name: (thresholds(d, counts), weights(d, counts)) for name in distributions for d in [DISTRIBUTIONS[name]]
    }
    each = [empool.EnsembleMax(c / case.shape[1]) for c in range(case.shape[1])]
    tables["by channel"] = (
        torch.cat([thresholds(d, counts) for d in each]),
        torch.cat([weights(d, counts) for d in each]),
    )
    for index, (name, (passed, weight)) in enumerate(tables.items()):
        drawn = reference.rank_draw(input, seed, passed, counts, *geometry, 0)[1]
        mean = (weight, counts, *geometry)
        found += [
            ("rank_draw", name, (input, seed, passed, counts, *geometry, 0)),
            ("rank_draw", f"{name}, tied", (input, seed, passed, counts, *geometry, index % 4, index)),
            ("rank_mean", name, (input, *mean)),
            ("rank_mean_backward", name, (grad_output, input, *mean)),
            ("rank_mean_jvp", name, (input, input, *mean)),
            ("rank_mean_weight_grad", name, (grad_output, input, *mean)),
            ("rank_mean_weight_grad_jvp", name, (grad_output, input, input, *mean)),
            ("drawn_scatter", name, (grad_output, drawn, list(case.shape[2:]), *window)),
            ("drawn_gather", name, (input, drawn, *window)),
        ]
    return found
