"""Window arithmetic: sizes, padding, ceil_mode, adaptive windows, and which activations a window holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """Where the windows lie; each sequence has one entry for every spatial dimension.

    With an `output_size` the windows are those of adaptive pooling: window i of a dimension holds the positions from
    ``floor(i * size / output)`` up to ``ceil((i + 1) * size / output)``. `kernel_size` then is the largest extent, the
    strides and dilations are 1, the padding is 0. An empty `output_size`, of which AOTInductor makes None, is that of a
    regular grid.
    """

    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    output_size: Sequence[int] | None = ()
    ceil_mode: bool = False

    @property
    def volume(self) -> int:
        """The number of positions in a window."""
        return math.prod(self.kernel_size)

    def output_sizes(self, spatial: Sequence[int]) -> list[int]:
        """Return the number of windows along every spatial dimension, as PyTorch's max-pooling counts them."""
        return list(self.output_size or ()) or [self._output_size(size, dim) for dim, size in enumerate(spatial)]

    def _output_size(self, size: int, dim: int) -> int:
        stride, padding = self.stride[dim], self.padding[dim]
        span = size + 2 * padding - self.dilation[dim] * (self.kernel_size[dim] - 1) - 1
        if not self.ceil_mode:
            return span // stride + 1
        count = (span + stride - 1) // stride + 1
        # The last window must start inside the input or its left padding.
        return count - 1 if (count - 1) * stride >= size + padding else count

    def possible_counts(self, spatial: Sequence[int] = ()) -> tuple[int, ...]:
        """Return, ascending, the numbers of valid activations (at least one) that a window can hold.

        Known without the input's size but for adaptive windows, so that tables made from it serve every input.
        """
        sides: list[set[int] | range] = []
        for dim, kernel in enumerate(self.kernel_size):
            if self.output_size:
                sides.append(adaptive_extents(spatial[dim], self.output_size[dim]))
            elif self.padding[dim] or self.ceil_mode:
                sides.append(range(1, kernel + 1))
            else:
                sides.append({kernel})
        return tuple(sorted({math.prod(side) for side in itertools.product(*sides)}))

    def may_hold_nothing(self) -> bool:
        """Tell whether a window may hold padding alone: its positions lie far enough apart to be on both sides."""
        return any(d > 1 and (p > 0 or self.ceil_mode) for d, p in zip(self.dilation, self.padding, strict=True))

    def starts(self, dim: int, size: int, output: int, device: torch.device) -> Tensor:
        """Return where every window of a dimension begins."""
        window = torch.arange(output, device=device)
        return window * size // output if self.output_size else window * self.stride[dim] - self.padding[dim]


def adaptive_bounds(index: int, size: int, output: int) -> tuple[int, int]:
    """Return where a window of adaptive pooling begins and ends."""
    return index * size // output, -((-(index + 1) * size) // output)


def adaptive_extents(size: int, output: int) -> set[int]:
    """Return how many positions the windows of adaptive pooling hold along a dimension."""
    # Of more windows than positions each holds one, but for those that hold the end of one and the next: the first
    # that may is here.
    windows = range(output) if output <= size else (0, output // size)
    return {end - start for start, end in (adaptive_bounds(i, size, output) for i in windows)}


def is_channels_last(input: Tensor) -> bool:
    """Tell whether the channels of a batched input lie next to each other in memory."""
    return input.stride(1) == 1 and input.size(1) > 1 and math.prod(input.shape[2:]) > 1


def dense(input: Tensor, channels_last: bool) -> Tensor:
    """Return the input without gaps, in one of the two layouts that the operators write."""
    return input.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else input.contiguous()


def positions(
    geometry: Geometry, spatial: Sequence[int], output: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the flat position that each window holds at each offset, and whether it lies in the input, not in padding.

    Both are ``(*output, K)``; a position outside stands for some position inside.
    """
    dims = len(spatial)
    flat, inside = torch.zeros((), dtype=torch.int64, device=device), torch.ones((), dtype=torch.bool, device=device)
    for dim, (size, windows, kernel) in enumerate(zip(spatial, output, geometry.kernel_size, strict=True)):
        start = geometry.starts(dim, size, windows, device)
        end = -(-(torch.arange(windows, device=device) + 1) * size // windows) if geometry.output_size else size
        at = start.unsqueeze(-1) + torch.arange(kernel, device=device) * geometry.dilation[dim]  # (output, kernel)
        valid = (at >= 0) & (at < (end.unsqueeze(-1) if isinstance(end, Tensor) else end))
        shape = [1] * (2 * dims)
        shape[dim], shape[dims + dim] = windows, kernel
        flat = flat * size + at.clamp(0, size - 1).reshape(shape)
        inside = inside & valid.reshape(shape)
    return flat.flatten(dims), inside.flatten(dims)


def windows(
    input: Tensor, geometry: Geometry, fill: float = -math.inf, output: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Gather every window along a last dimension, ``(N, C, *output, K)``, padding as `fill`; and what is no padding."""
    output = geometry.output_sizes(input.shape[2:]) if output is None else output
    index, valid = positions(geometry, input.shape[2:], output, input.device)
    flat = input.reshape(*input.shape[:2], math.prod(input.shape[2:]))
    gathered = flat.index_select(2, index.flatten()).reshape(*input.shape[:2], *index.shape)
    return torch.where(valid, gathered, fill), valid


def covering(
    geometry: Geometry, spatial: Sequence[int], output: Sequence[int], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, first window first, a window over every position of an image: index, offset in it, if there is one.

    All are flat, ``(positions,)``.
    """
    sides = [
        list(_covering(geometry, dim, *sizes, device)) for dim, sizes in enumerate(zip(spatial, output, strict=True))
    ]
    for side in itertools.product(*sides):
        window = offset = torch.zeros((), dtype=torch.int64, device=device)
        valid = torch.ones((), dtype=torch.bool, device=device)
        for dim, (windows, offsets, covers) in enumerate(side):
            shape = [-1 if i == dim else 1 for i in range(len(side))]
            window = window * output[dim] + windows.reshape(shape)
            offset = offset * geometry.kernel_size[dim] + offsets.reshape(shape)
            valid = valid & covers.reshape(shape)
        yield window.flatten(), offset.flatten(), valid.flatten()


def _covering(
    geometry: Geometry, dim: int, size: int, output: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the windows over every position of a dimension, the j-th of each at once."""
    at = torch.arange(size, device=device)
    stride, dilation, kernel = geometry.stride[dim], geometry.dilation[dim], geometry.kernel_size[dim]
    if geometry.output_size:
        first, last = at * output // size, -(-(at + 1) * output // size) - 1
        most = max(-(-(i + 1) * output // size) - i * output // size for i in range(size))
    else:
        reach = at + geometry.padding[dim]
        first, last = -((dilation * (kernel - 1) - reach) // stride), reach // stride
        first, most = first.clamp(min=0), min(output, dilation * (kernel - 1) // stride + 1)
    starts = geometry.starts(dim, size, output, device)
    for j in range(most):
        window = first + j
        covers = (window <= last) & (window < output)
        window = window.clamp(max=output - 1)
        offset = at - starts[window]
        covers = covers & (offset % dilation == 0)
        yield window, torch.where(covers, offset // dilation, 0), covers


def gather_from_windows(
    portion: Callable[[Tensor, Tensor], Tensor],
    geometry: Geometry,
    spatial: Sequence[int],
    like: Tensor,
) -> Tensor:
    """Add to every position of an image what the windows over it send there, first window first.

    Args:
        portion: what a window, by its index, sends to an offset in it: flat, ``(N, C, positions)``.
        geometry: where the windows are.
        spatial: the image's sizes.
        like: one number for each window, ``(N, C, *output)``; gives the sum's type too.
    """
    total = like.new_zeros((*like.shape[:2], math.prod(spatial)))
    for window, offset, valid in covering(geometry, spatial, like.shape[2:], like.device):
        total = total + torch.where(valid, portion(window, offset), 0)
    return total.reshape(*like.shape[:2], *spatial)
