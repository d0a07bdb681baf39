"""One call of a pooling function: all user input is normalised and checked here, before any operator sees it."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from empool import _kernels as _kernels  # Registers the operators and their kernels.
from empool import _ops, reference
from empool._window import Geometry
from empool.distributions import RankDistribution

Size = int | Sequence[int]
Seed = int | Tensor | None
Arguments = tuple[Size, Size | None, Size, Size, bool]
"""A geometry as the user gave it: kernel_size, stride, padding, dilation, ceil_mode."""

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Plan(NamedTuple):
    """What a call comes to: the windows, and an operator's arguments after its tensors."""

    geometry: Geometry
    arguments: tuple[Any, ...]
    draws: bool


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
    plan = _plan(function, dims, input, arguments, return_indices, distribution, training)
    batched = input if input.dim() == dims + 2 else input.unsqueeze(0)
    if training:
        output, drawn = _draw(function, batched, plan, distribution, seed)
        indices = _drawn_indices(drawn, batched, plan.geometry) if return_indices else None
    else:
        output = _mean(batched, plan, distribution)
        indices = _max_indices(batched, plan.geometry) if return_indices else None
    if batched is not input:
        output, indices = output.squeeze(0), None if indices is None else indices.squeeze(0)
    return output if indices is None else (output, indices)


def _draw(
    function: str, input: Tensor, plan: _Plan, distribution: RankDistribution | None, seed: Seed
) -> tuple[Tensor, Tensor]:
    # The plain maximum needs no random numbers, so it takes none from the generator.
    key = _seed(function, input, seed) if plan.draws else input.new_empty((), dtype=torch.int64)
    output, drawn = _ops.call("value_draw" if distribution is None else "rank_draw", input, key, *plan.arguments)
    return output, drawn


def _mean(input: Tensor, plan: _Plan, distribution: RankDistribution | None) -> Tensor:
    if distribution is None:
        return reference.value_mean(input, *plan.geometry)
    output: Tensor = _ops.call("rank_mean", input, *plan.arguments)
    return output


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


def _plan(
    function: str,
    dims: int,
    input: Tensor,
    arguments: Arguments,
    return_indices: bool,
    distribution: RankDistribution | None,
    training: bool,
) -> _Plan:
    """Make the plan; a geometry that PyTorch refuses raises PyTorch's own error."""
    sizes = input.shape
    if len(sizes) in (dims + 1, dims + 2):
        plan = _sound_plan(distribution, training, dims, sizes[-dims - 1 :], *arguments)
        if plan is not None:
            return plan
    _MAX_POOL[dims](input, *arguments, return_indices=return_indices)
    geometry = _normalised(dims, *arguments)
    if geometry is None:
        raise TypeError(f"{function}: expected whole numbers for the geometry, got {arguments}")
    return _planned(distribution, training, geometry)


def _sound_plan(distribution: RankDistribution | None, *args: Any) -> _Plan | None:
    """Make the plan, or take it from an earlier call: the checks cost more than a small pooling.

    A tracer makes it anew, so that its guards see the arguments; so does an argument that has no value to be compared
    by (a list, or a distribution that is compared by identity and may have changed).
    """
    by_identity = distribution is not None and not dataclasses.is_dataclass(distribution)
    if not (by_identity or torch.compiler.is_compiling()):
        try:
            return _remembered_plan(distribution, *args)
        except TypeError:
            pass
    return _new_plan(distribution, *args)


def _new_plan(
    distribution: RankDistribution | None, training: bool, dims: int, sizes: Sequence[int], *arguments: Any
) -> _Plan | None:
    geometry = _sound_geometry(dims, sizes, *arguments)
    return None if geometry is None else _planned(distribution, training, geometry)


_remembered_plan = functools.lru_cache(maxsize=1024, typed=True)(_new_plan)


def _planned(distribution: RankDistribution | None, training: bool, geometry: Geometry) -> _Plan:
    if distribution is None:
        return _Plan(geometry, tuple(geometry), draws=True)
    counts = geometry.possible_counts()
    table = distribution.threshold_table(counts) if training else distribution.weight_table(counts)
    return _Plan(geometry, (counts, table, *geometry), draws=len(table) > 0)


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


def distribution_of(kind: Callable[[float], Any], check: Callable[..., float], *argument: Any) -> Any:
    """Make a distribution of a checked argument, or take it from an earlier call.

    Args:
        kind: the distribution.
        check: `probability` or `share`.
        argument: whose it is, its name and its value.
    """
    if not torch.compiler.is_compiling():
        try:
            return _remembered_distribution(kind, check, *argument)
        except TypeError:  # No number, which the check says better than a dictionary.
            pass
    return kind(check(*argument))


@functools.lru_cache(maxsize=256, typed=True)
def _remembered_distribution(
    kind: Callable[[float], RankDistribution], check: Callable[..., float], *argument: Any
) -> Any:
    return kind(check(*argument))


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
