"""Window arithmetic: sizes, padding, ceil_mode, and which activations a window holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """Where the windows lie; each sequence has one entry for every spatial dimension."""

    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    ceil_mode: bool = False

    @property
    def volume(self) -> int:
        """The number of positions in a window."""
        return math.prod(self.kernel_size)

    def output_size(self, size: int, dim: int) -> int:
        """Return the number of windows along a spatial dimension, as `torch.nn.functional.max_pool2d` counts them."""
        stride, padding = self.stride[dim], self.padding[dim]
        span = size + 2 * padding - self.dilation[dim] * (self.kernel_size[dim] - 1) - 1
        if not self.ceil_mode:
            return span // stride + 1
        count = (span + stride - 1) // stride + 1
        # The last window must start inside the input or its left padding.
        return count - 1 if (count - 1) * stride >= size + padding else count

    def output_sizes(self, spatial: Sequence[int]) -> list[int]:
        """Return the number of windows along every spatial dimension."""
        return [self.output_size(size, dim) for dim, size in enumerate(spatial)]

    def possible_counts(self) -> tuple[int, ...]:
        """Return, ascending, the numbers of valid activations (at least one) that a window can hold.

        Known without the input's size, so that tables made from it serve every input.
        """
        sides = (
            range(1, kernel + 1) if padding or self.ceil_mode else (kernel,)
            for kernel, padding in zip(self.kernel_size, self.padding, strict=True)
        )
        return tuple(sorted({math.prod(side) for side in itertools.product(*sides)}))

    def may_hold_nothing(self) -> bool:
        """Tell whether a window may hold padding alone: its positions lie far enough apart to be on both sides."""
        return any(d > 1 and (p > 0 or self.ceil_mode) for d, p in zip(self.dilation, self.padding, strict=True))

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Yield the positions of a window in window order."""
        return itertools.product(*map(range, self.kernel_size))

    def reach(self, output: Sequence[int]) -> list[int]:
        """Return how far so many windows reach along every dimension, from the start of the left padding."""
        return [
            (o - 1) * s + (k - 1) * d + 1
            for o, k, s, d in zip(output, self.kernel_size, self.stride, self.dilation, strict=True)
        ]


def is_channels_last(input: Tensor) -> bool:
    """Tell whether the channels of a batched input lie next to each other in memory."""
    return input.stride(1) == 1 and input.size(1) > 1 and math.prod(input.shape[2:]) > 1


def dense(input: Tensor, channels_last: bool) -> Tensor:
    """Return the input without gaps, in one of the two layouts that the operators write."""
    return input.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else input.contiguous()


def pad(input: Tensor, geometry: Geometry, output: Sequence[int], value: float) -> Tensor:
    """Pad the spatial dimensions, or crop them on the right, to just what the windows reach."""
    widths: list[int] = []
    sizes = zip(input.shape[2:], geometry.reach(output), geometry.padding, strict=True)
    for size, reach, left in reversed(list(sizes)):
        widths += [left, reach - left - size]
    return F.pad(input, widths, value=value)


def at_offset(padded: Tensor, offset: Sequence[int], geometry: Geometry, output: Sequence[int]) -> Tensor:
    """View the activation that every window holds at one of its positions: ``(N, C, *output)``."""
    steps: list[Any] = [
        slice(o * d, o * d + (n - 1) * s + 1, s)
        for o, n, s, d in zip(offset, output, geometry.stride, geometry.dilation, strict=True)
    ]
    return padded[(..., *steps)]


def windows(input: Tensor, geometry: Geometry, fill: float = -math.inf) -> Tensor:
    """Gather every window along a last dimension: ``(N, C, *output, K)``, padding as `fill`."""
    output = geometry.output_sizes(input.shape[2:])
    padded = pad(input, geometry, output, fill)
    return torch.stack([at_offset(padded, offset, geometry, output) for offset in geometry.offsets()], dim=-1)


def valid(input: Tensor, geometry: Geometry) -> Tensor:
    """Tell which positions of every window lie inside the input: boolean, ``(1, 1, *output, K)``."""
    inside = torch.ones((1, 1, *input.shape[2:]), device=input.device)
    return windows(inside, geometry, fill=0.0) > 0


def overlap_add(portions: Iterator[Tensor], like: Tensor, geometry: Geometry, output: Sequence[int]) -> Tensor:
    """Add to every activation what the windows that hold it send there.

    Args:
        portions: for every position of a window, *the last position first*, what each window sends to it:
            ``(N, C, *output)``. In that order the windows over one activation come first window first.
        like: gives the result's spatial sizes; ``(N, C, *spatial)``.
    """
    extent = [max(r, p + n) for r, p, n in zip(geometry.reach(output), geometry.padding, like.shape[2:], strict=True)]
    total: Tensor | None = None
    for offset, portion in zip(reversed(list(geometry.offsets())), portions, strict=True):
        if total is None:
            total = portion.new_zeros((*portion.shape[:2], *extent))
        at_offset(total, offset, geometry, output).add_(portion)
    assert total is not None
    inside: list[Any] = [slice(p, p + n) for p, n in zip(geometry.padding, like.shape[2:], strict=True)]
    return total[(..., *inside)].clone()  # An operator's result owns its memory, even where a crop is dense already.
