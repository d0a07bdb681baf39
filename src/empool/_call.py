"""One call of a pooling function: all user input is normalised and checked here, before any operator sees it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from empool import _kernels as _kernels  # Registers the operators and their kernels.
from empool import _ops, reference
from empool._window import Geometry
from empool.distributions import RankDistribution

Size = int | Sequence[int]
Seed = SupportsIndex | Tensor | None
Arguments = tuple[Size, Size | None, Size, Size, bool]
"""A geometry as the user gave it: kernel_size, stride, padding, dilation, ceil_mode."""

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""What every kernel takes."""


class _Plan(NamedTuple):
    """What a call comes to.

    Attributes:
        geometry: where the windows are.
        arguments: the operator's, after its tensors.
        draws: whether it needs random numbers.
        zeros: whether an output may be no activation's.
    """

    geometry: Geometry
    arguments: tuple[Any, ...]
    draws: bool
    zeros: bool


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
    if seed is not None:
        _check_seed(function, input, seed)
    if input.dtype not in DTYPES:
        return _pool_others(function, dims, input, arguments, return_indices, distribution)
    plan = _plan(function, dims, input, arguments, return_indices, distribution, training)
    batched = input if input.dim() == dims + 2 else input.unsqueeze(0)
    if training:
        output, drawn = _draw(batched, plan, distribution, seed)
        indices = _drawn_indices(drawn, batched, plan) if return_indices else None
    else:
        output = _mean(batched, plan, distribution)
        indices = _max_indices(batched, plan.geometry) if return_indices else None
    if batched is not input:
        output, indices = output.squeeze(0), None if indices is None else indices.squeeze(0)
    return output if indices is None else (output, indices)


def _draw(input: Tensor, plan: _Plan, distribution: RankDistribution | None, seed: Seed) -> tuple[Tensor, Tensor]:
    # The plain maximum needs no random numbers, so it takes none from the generator.
    key = _key(input, seed) if plan.draws else input.new_empty((), dtype=torch.int64)
    output, drawn = _ops.call("value_draw" if distribution is None else "rank_draw", input, key, *plan.arguments)
    return output, drawn


def _mean(input: Tensor, plan: _Plan, distribution: RankDistribution | None) -> Tensor:
    if distribution is None:
        return reference.value_mean(input, *plan.geometry)
    output: Tensor = _ops.call("rank_mean", input, *plan.arguments)
    return output


def _pool_others(
    function: str,
    dims: int,
    input: Tensor,
    arguments: Arguments,
    return_indices: bool,
    distribution: RankDistribution | None,
) -> Any:
    """Take the maximum of what PyTorch takes it of, such as integers, in either phase; there is no expectation."""
    max_pool = functools.partial(_MAX_POOL[dims], input, *arguments, return_indices=return_indices)
    if input.dim() not in (dims + 1, dims + 2) or not _sound_geometry(dims, input.shape[-dims - 1 :], *arguments):
        max_pool()  # Raises PyTorch's own error, if it has one.
    geometry = _normalised(dims, *arguments)
    if geometry is None or distribution is None or distribution.threshold_table(geometry.possible_counts()):
        remedy = "" if input.is_complex() else "; convert it with .float()"
        raise TypeError(
            f"{function}: expected a floating-point input (float32, float64, float16 or bfloat16), got {input.dtype}"
            f"{remedy}"
        )
    return max_pool()


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


def _sound_plan(*args: Any) -> _Plan | None:
    """Make the plan, or take it from an earlier call: the checks cost more than a small pooling.

    A tracer makes it anew, so that its guards see the arguments.
    """
    if not torch.compiler.is_compiling():
        try:
            return _remembered_plan(*args)
        except TypeError:
            pass
    return _new_plan(*args)


@functools.lru_cache(maxsize=1024, typed=True)
def _remembered_plan(distribution: RankDistribution | None, *args: Any) -> _Plan | None:
    """Make the plan of arguments that are known by their value, which alone come here twice.

    Raises:
        TypeError: if one is not: a list, a tensor, or a distribution that may change or be like another.
    """
    numbers = [number for arg in args for number in (arg if isinstance(arg, tuple) else (arg,))]
    if not _is_value(distribution) or any(isinstance(number, Tensor) for number in numbers):
        raise TypeError
    return _new_plan(distribution, *args, table=_remembered_table)


def _is_value(distribution: RankDistribution | None) -> bool:
    """Tell whether a distribution's own class, not one that it inherits from, is compared by what cannot change."""
    if distribution is None:
        return True
    parameters = vars(type(distribution)).get("__dataclass_params__")
    return parameters is not None and parameters.eq and parameters.frozen


def _table(distribution: RankDistribution, training: bool, counts: tuple[int, ...]) -> tuple[float, ...]:
    return distribution.threshold_table(counts) if training else distribution.weight_table(counts)


_remembered_table = functools.lru_cache(maxsize=256)(_table)


def _new_plan(
    distribution: RankDistribution | None,
    training: bool,
    dims: int,
    sizes: Sequence[int],
    *arguments: Any,
    table: Callable[..., Any] = _table,
) -> _Plan | None:
    geometry = _sound_geometry(dims, sizes, *arguments)
    return None if geometry is None else _planned(distribution, training, geometry, table)


def _planned(
    distribution: RankDistribution | None, training: bool, geometry: Geometry, table: Callable[..., Any] = _table
) -> _Plan:
    if distribution is None:
        return _Plan(geometry, tuple(geometry), draws=True, zeros=True)
    counts = geometry.possible_counts()
    entries = table(distribution, training, counts)
    zeros = geometry.may_hold_nothing() or any(distribution.zero_probability(n) > 0 for n in counts)
    return _Plan(geometry, (counts, entries, *geometry), draws=len(entries) > 0, zeros=zeros)


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
    dims: int, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: Any
) -> Geometry | None:
    """Return one number for each dimension, or nothing where they cannot be made out."""
    if not isinstance(ceil_mode, bool):
        return None
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
    return Geometry(sizes[0], sizes[1], sizes[2], sizes[3], ceil_mode)


def _check_seed(function: str, input: Tensor, seed: SupportsIndex | Tensor) -> None:
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != input.device:
            raise ValueError(
                f"{function}: expected seed as one int64 on {input.device}, "
                f"got {tuple(seed.shape)} of {seed.dtype} on {seed.device}"
            )
        return
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"{function}: expected seed to be an int, a tensor or None, got {type(seed).__name__}")
    if not -(2**63) <= operator.index(seed) < 2**64:
        raise ValueError(f"{function}: expected a seed of 64 bits, got {seed}")


def _key(input: Tensor, seed: Seed) -> Tensor:
    """Return the seed as a tensor on the input's device, drawn there if none is given: nothing waits for the device."""
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=input.device)
    if isinstance(seed, Tensor):
        return seed.reshape(())
    number = operator.index(seed)
    signed = number - 2**64 if number >= 2**63 else number
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


def _drawn_indices(drawn: Tensor, input: Tensor, plan: _Plan) -> Tensor:
    """Turn offsets in windows into flat indices; where no activation was drawn, the maximum's."""
    geometry, sizes = plan.geometry, input.shape[2:]
    index = _flat_offsets(geometry, sizes, drawn)[drawn.to(torch.int64)]
    step = 1
    for dim in reversed(range(len(sizes))):
        start = torch.arange(drawn.size(dim + 2), device=drawn.device) * geometry.stride[dim] - geometry.padding[dim]
        index += (start * step).reshape(-1, *[1] * (len(sizes) - 1 - dim))
        step *= sizes[dim]
    if not plan.zeros:
        return index
    return torch.where(drawn == reference.zero_drawn(drawn.dtype), _max_indices(input, geometry), index)


def _flat_offsets(geometry: Geometry, sizes: Sequence[int], drawn: Tensor) -> Tensor:
    """Return how far each offset of a window is from its first position, in a flat image; anything for a zero."""
    offset = torch.arange(256 if drawn.dtype == torch.uint8 else geometry.volume, device=drawn.device)
    flat, step = torch.zeros_like(offset), 1
    for kernel, dilation, size in zip(
        reversed(geometry.kernel_size), reversed(geometry.dilation), reversed(sizes), strict=True
    ):
        flat += offset % kernel * (dilation * step)
        offset, step = offset // kernel, step * size
    return flat
