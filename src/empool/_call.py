"""One call of a pooling function: all user input is normalised and checked here, before any operator sees it."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from empool import _kernels as _kernels  # Registers the operators and their kernels.
from empool import reference
from empool._window import Geometry
from empool.distributions import RankDistribution, probability

Size = int | Sequence[int]
Seed = int | Tensor | None
Arguments = tuple[Size, Size | None, Size, Size, bool]
"""A geometry as the user gave it: kernel_size, stride, padding, dilation, ceil_mode."""

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def pool(
    function: str,
    dims: int,
    input: Any,
    arguments: Arguments,
    return_indices: bool,
    distribution: RankDistribution | None,
    training: bool,
    seed: Seed,
) -> Any:
    """Pool by rank, or by value where there is no distribution."""
    if not isinstance(input, Tensor):
        _MAX_POOL[dims](input, *arguments, return_indices=return_indices)  # Raises PyTorch's own error.
    if not input.is_floating_point():
        return _pool_integers(function, dims, input, arguments, return_indices, distribution)
    geometry = _geometry(function, dims, input, arguments, return_indices)
    batched = input if input.dim() == dims + 2 else input.unsqueeze(0)
    if not training:
        output = _mean(batched, geometry, distribution)
        indices = _max_indices(batched, geometry) if return_indices else None
    else:
        output, drawn = _draw(function, batched, geometry, distribution, seed)
        indices = _drawn_indices(drawn, batched, geometry) if return_indices else None
    if batched is not input:
        output, indices = output.squeeze(0), None if indices is None else indices.squeeze(0)
    return output if indices is None else (output, indices)


def _draw(
    function: str, input: Tensor, geometry: Geometry, distribution: RankDistribution | None, seed: Seed
) -> tuple[Tensor, Tensor]:
    if distribution is None:
        return torch.ops.empool.value_draw(input, _seed(function, input, seed), *geometry)
    counts, thresholds = _remembered(_thresholds, distribution, geometry)
    # The plain maximum needs no random numbers, so it takes none from the generator.
    key = _seed(function, input, seed) if thresholds else input.new_empty((), dtype=torch.int64)
    return torch.ops.empool.rank_draw(input, key, counts, thresholds, *geometry)


def _mean(input: Tensor, geometry: Geometry, distribution: RankDistribution | None) -> Tensor:
    if distribution is None:
        return reference.value_mean(input, *geometry)
    return torch.ops.empool.rank_mean(input, *_remembered(_weights, distribution, geometry), *geometry)


def _pool_integers(
    function: str,
    dims: int,
    input: Tensor,
    arguments: Arguments,
    return_indices: bool,
    distribution: RankDistribution | None,
) -> Any:
    """Integers have a maximum, in either phase, but no expectation."""
    if distribution is None or distribution.threshold_table((2, 1)):
        raise TypeError(f"{function}: expected a floating-point input, got {input.dtype}; convert it with .float()")
    return _MAX_POOL[dims](input, *arguments, return_indices=return_indices)


def _geometry(function: str, dims: int, input: Tensor, arguments: Arguments, return_indices: bool) -> Geometry:
    """Normalise the geometry; one that PyTorch refuses raises PyTorch's own error."""
    if input.dim() in (dims + 1, dims + 2):
        geometry = _remembered(_sound_geometry, dims, input.shape[-dims - 1 :], *arguments)
        if geometry is not None:
            return geometry
    _MAX_POOL[dims](input, *arguments, return_indices=return_indices)
    geometry = _normalised(dims, *arguments)
    if geometry is None:
        raise TypeError(f"{function}: expected whole numbers for the geometry, got {arguments}")
    return geometry


def _sound_geometry(dims: int, sizes: Sequence[int], *arguments: Any) -> Geometry | None:
    """Return the geometry if PyTorch surely accepts it for an input of these sizes, channels first."""
    geometry = _normalised(dims, *arguments)
    if geometry is None or not all(size > 0 for size in sizes):
        return None
    windows = zip(geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    if not all(k > 0 and s > 0 and 0 <= 2 * p <= k and d > 0 for k, s, p, d in windows):
        return None
    output = geometry.output_sizes(sizes[1:])
    if geometry.ceil_mode and not any(geometry.padding) and not torch.compiler.is_compiling():
        floor = geometry._replace(ceil_mode=False)
        if floor.output_sizes(sizes[1:]) == output:
            geometry = floor  # Every window is whole: one count, and the kernels' fast paths.
    return geometry if all(size > 0 for size in output) else None


def _normalised(
    dims: int, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> Geometry | None:
    """Return one number for each dimension, or nothing where they cannot be made out."""
    if stride is None or (isinstance(stride, (tuple, list)) and not stride):
        stride = kernel_size
    sizes: list[tuple[int, ...]] = []
    for size in (kernel_size, stride, padding, dilation):
        numbers = tuple(size) if isinstance(size, (tuple, list)) else (size,)
        if len(numbers) not in (1, dims) or any(isinstance(number, bool) for number in numbers):
            return None
        try:
            # NumPy's whole numbers and tensors of one too, as PyTorch does.
            numbers = tuple(number if isinstance(number, int) else operator.index(number) for number in numbers)
        except TypeError:
            return None
        sizes.append(numbers if len(numbers) == dims else numbers * dims)
    return Geometry(sizes[0], sizes[1], sizes[2], sizes[3], bool(ceil_mode))


def _thresholds(distribution: RankDistribution, geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    counts = geometry.possible_counts()
    return counts, distribution.threshold_table(counts)


def _weights(distribution: RankDistribution, geometry: Geometry) -> tuple[tuple[int, ...], tuple[float, ...]]:
    counts = geometry.possible_counts()
    return counts, distribution.weight_table(counts)


_cached = {
    function: functools.lru_cache(maxsize=1024, typed=True)(function)
    for function in (_sound_geometry, _thresholds, _weights)
}


def _remembered(function: Callable[..., Any], *args: Any) -> Any:
    """Call a pure function, or take its result from an earlier call: the checks cost more than a small pooling.

    A tracer looks at the function itself, so that its guards see the arguments; so does an argument that has no value
    to be compared by (a list, or a distribution that is compared by identity and may have changed).
    """
    by_identity = any(isinstance(arg, RankDistribution) and not dataclasses.is_dataclass(arg) for arg in args)
    if by_identity or torch.compiler.is_compiling():
        return function(*args)
    try:
        return _cached[function](*args)
    except TypeError:
        return function(*args)


def _seed(function: str, input: Tensor, seed: Seed) -> Tensor:
    """Return the seed as a tensor on the input's device, drawn there if none is given: nothing waits for the device."""
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=input.device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != input.device:
            raise ValueError(
                f"{function}: expected seed as one int64 on {input.device}, "
                f"got {tuple(seed.shape)} of {seed.dtype} on {seed.device}"
            )
        return seed.reshape(())
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{function}: expected seed to be an int, a tensor or None, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{function}: expected a seed of 64 bits, got {seed}")
    signed = seed - 2**64 if seed >= 2**63 else seed
    return torch.full((), signed, dtype=torch.int64, device=input.device)


def drop_argument(function: str, drop: float) -> float:
    """Return the share to drop, or say under the function's name what is wrong with it."""
    drop = probability(function, "drop", drop)
    if drop == 1:
        raise ValueError(f"{function}: expected drop in [0, 1), got 1: an activation must be left")
    return drop


def distribution_argument(function: str, distribution: RankDistribution) -> RankDistribution:
    """Return the distribution, or say under the function's name that it is none."""
    if not isinstance(distribution, RankDistribution):
        raise TypeError(
            f"{function}: expected distribution to be an empool.RankDistribution, got {type(distribution).__name__}"
        )
    return distribution


def _max_indices(input: Tensor, geometry: Geometry) -> Tensor:
    max_pool = _MAX_POOL[len(geometry.kernel_size)]
    indices: Tensor = max_pool(input.detach(), *geometry, return_indices=True)[1]
    return indices


def _drawn_indices(drawn: Tensor, input: Tensor, geometry: Geometry) -> Tensor:
    """Turn offsets in windows into flat indices; a drawn zero has the maximum's."""
    offset = drawn.to(torch.int64)
    index = torch.zeros_like(offset)
    volume, dims = geometry.volume, len(geometry.kernel_size)
    for dim in range(dims):
        volume //= geometry.kernel_size[dim]
        start = torch.arange(drawn.size(dim + 2), device=drawn.device) * geometry.stride[dim] - geometry.padding[dim]
        position = start.reshape(-1, *[1] * (dims - 1 - dim)) + offset // volume * geometry.dilation[dim]
        index = index * input.size(dim + 2) + position
        offset = offset % volume
    return torch.where(drawn == reference.zero_drawn(drawn.dtype), _max_indices(input, geometry), index)
