"""One call of a pooling function: all user input is normalised and checked here, before any operator sees it."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from empool import _kernels as _kernels  # Registers the operators and their kernels.
from empool import _ops, _private, _tables, reference
from empool._tables import Known, Learned, Numbers, Tables, cached, remembered
from empool._window import Geometry, adaptive_extents
from empool.distributions import RankDistribution, Tunable, finite

Size = int | Sequence[int]
OutputSize = int | None | Sequence[int | None]
Seed = SupportsIndex | Tensor | None
Tied = Literal["channel", "position", "image"] | None
Number = float | Tensor | Tables
"""A method's own number, such as p: a number, a tensor of one a channel, or what a layer keeps of it."""

TIED = {None: 0, "channel": 1, "position": 2, "image": 3}
_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

_LARGE = 256
"""How many activations a window has whose tables are made before they are asked for, at most."""

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""What every kernel takes."""


class Windows(NamedTuple):
    """The windows as the user gave them: max-pooling's arguments, or adaptive pooling's output size."""

    kernel_size: Any = None
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: Any = False
    output_size: Any = None
    adaptive: bool = False

    def max_pool(self, input: Any, dims: int, return_indices: bool) -> Any:
        """Call PyTorch's own pooling, for its result or its error."""
        if self.adaptive:
            return _ADAPTIVE[dims](input, self.output_size, return_indices)
        return _MAX_POOL[dims](input, *self[:5], return_indices=return_indices)


class Method(NamedTuple):
    """What a function does with each window.

    Attributes:
        tables: pools by rank with these.
        beta: where there are no tables, the weight of the softmax; None weighs by positive part.
        training, seed, generator, tied: as every function takes them.
        first_image: the number of images of the batch before these.
    """

    tables: Tables | Known | Numbers | Learned | None
    beta: float | Tensor | None
    training: bool
    seed: Seed
    generator: torch.Generator | None
    tied: Tied
    first_image: int = 0

    @property
    def learns(self) -> bool:
        """Whether a gradient of the probabilities is asked for."""
        if type(self.tables) is Tables:
            return False
        number = self.beta if self.tables is None else self.tables.number
        if not isinstance(number, Tensor):
            return False
        return (number.requires_grad and torch.is_grad_enabled()) or _private.is_forward_mode()


def pool(function: str, dims: int, input: Any, windows: Windows, return_indices: bool, method: Method) -> Any:
    """Pool by rank, or by value where there are no tables."""
    if not isinstance(input, Tensor):
        windows.max_pool(input, dims, return_indices)  # Raises PyTorch's own error.
    if type(input) is not Tensor and _is_distributed(input):
        from empool import _distributed

        def local(part: Tensor, first: int) -> Any:
            return pool(function, dims, part, windows, return_indices, method._replace(first_image=first))

        return _distributed.pool_locally(function, input, dims, local)
    if input.layout is not torch.strided or input.is_nested:
        kind, remedy = ("nested", "to_padded_tensor(-inf)") if input.is_nested else (input.layout, "to_dense()")
        raise TypeError(f"{function}: expected a dense tensor, got a {kind} one; convert it with .{remedy}")
    check_training(function, method)
    if method.seed is not None or method.generator is not None or method.tied is not None:
        check_draw(function, input, method)
    if input.dtype not in DTYPES:
        return _pool_others(function, dims, input, windows, return_indices, method)
    plan = plan_of(function, dims, input, windows, return_indices)
    if plan is None:
        return windows.max_pool(input, dims, return_indices)
    batched = input if input.dim() == dims + 2 else input.unsqueeze(0)
    if method.training:
        output, drawn, zeros = _draw(function, batched, plan, method)
        indices = _drawn_indices(drawn, batched, plan.geometry, zeros) if return_indices else None
    else:
        output = _mean(function, batched, plan, method)
        indices = _max_indices(batched, plan.geometry) if return_indices else None
    if batched is not input:
        output, indices = output.squeeze(0), None if indices is None else indices.squeeze(0)
    return output if indices is None else (output, indices)


def _is_distributed(input: Tensor) -> bool:
    """Tell whether it is a DTensor, whose module nobody waits for who has none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(input, module.DTensor)


def _draw(function: str, input: Tensor, plan: Plan, method: Method) -> tuple[Tensor, Tensor, bool]:
    """Return the output, the offsets drawn, and whether an output may be no activation's."""
    how = TIED[method.tied], method.first_image
    if method.tables is None:
        zeros, beta = True, beta_of(function, input, method.beta)
        output, drawn = _ops.call("value_draw", input, _key(input, method), beta, *plan.geometry, *how)
    else:
        entries, draws, zeros = method.tables.get(plan.counts, True, input.device)
        if (sets := entries.size(0)) != 1:
            check_channels(function, input, sets)
        # What needs no random numbers takes none from the generator.
        key = _key(input, method) if draws or _is_captured(input) else input.new_empty((), dtype=torch.int64)
        output, drawn = _ops.call("rank_draw", input, key, entries, plan.counts, *plan.geometry, *how)
    if method.learns:  # A draw has no derivative in its probabilities, so it has the expectation's.
        expected = _mean(function, input.detach(), plan, method)
        nothing = expected - expected.detach()  # But a NaN for an infinity.
        output = output + torch.where(nothing == 0, nothing, 0)
    return output, drawn, zeros or plan.may_hold_nothing


def _mean(function: str, input: Tensor, plan: Plan, method: Method) -> Tensor:
    mean: Tensor
    if method.tables is None:
        mean = _ops.call("value_mean", input, beta_of(function, input, method.beta), *plan.geometry)
        return mean
    entries = method.tables.get(plan.counts, False, input.device).entries
    if (sets := entries.size(0)) != 1:
        check_channels(function, input, sets)
    if entries.is_cuda and isinstance(method.tables, Tables) and torch.is_grad_enabled() and input.requires_grad:
        entries = entries.clone()  # A new p is written into the table, perhaps before the backward pass.
    mean = _ops.call("rank_mean", input, entries, plan.counts, *plan.geometry)
    return mean


def _is_captured(input: Tensor) -> bool:
    """Tell whether a CUDA graph will replay the call, perhaps with another p, which needs random numbers."""
    return input.is_cuda and _private.is_capturing()


def check_channels(function: str, input: Tensor, sets: int) -> None:
    """Refuse a number of tables that is not the channels'."""
    if sets != 1 and sets != input.size(1):
        raise ValueError(f"{function}: expected one number or one for each of {input.size(1)} channels, got {sets}")


def beta_of(function: str, input: Tensor, beta: float | Tensor | None) -> Tensor | None:
    """Return the weight of a softmax as operators take it."""
    if isinstance(beta, Tensor):
        check_channels(function, input, beta.numel())
        # A layer's parameter may have been made half precision, which no kernel takes.
        return beta.to(input.device, torch.promote_types(beta.dtype, torch.float32))
    if beta is None:
        return None
    if torch.compiler.is_compiling():
        if _private.is_exporting() or not _private.is_known(beta):
            return _tables.in_graph(beta, input.device)
        return _tables.read_by_graph(_filled, beta, input.device)
    if _private.has_dispatch_mode():
        return torch.full((1,), beta, dtype=torch.float64, device=input.device)
    return cached(_filled, beta, input.device)


def _filled(number: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False), _private.untraced():
        return _private.read_by_graphs(_private.unwrapped(torch.full((1,), number, dtype=torch.float64, device=device)))


def by_rank(
    function: str, kind: type[Tunable], name: str, number: Number, check: Callable[..., float]
) -> Tables | Known | Numbers:
    """Return what pools by a kind of distribution.

    Args:
        function: whose argument the number is.
        kind: the distribution.
        name: the argument's.
        number: its value.
        check: `empool.distributions.probability` or `share`.
    """
    if type(number) is Tables:
        return number
    if isinstance(number, Tensor):
        if number.dim() > 1 or not number.numel() or not number.dtype.is_floating_point:
            raise ValueError(
                f"{function}: expected {name} as one floating-point number or one a channel, "
                f"got {tuple(number.shape)} of {number.dtype}"
            )
        _check_each(function, name, number, check)
        return Numbers(kind, number)
    value = check(function, name, number)
    if torch.compiler.is_compiling():
        if not _private.is_exporting():
            return Known(kind(value)) if _private.is_known(value) else Numbers(kind, value)  # type: ignore[call-arg]
        return _tables.of_kind(kind, value)
    return cached(_tables.of_kind, kind, value)


def by_distribution(function: str, distribution: RankDistribution | Tables | Learned) -> Tables | Known | Learned:
    """Return what pools by a distribution, or say under the function's name that it is none."""
    if isinstance(distribution, (Tables, Learned)):
        return distribution
    return _tables.of(distribution_argument(function, distribution))


def distribution_argument(function: str, distribution: RankDistribution) -> RankDistribution:
    """Return the distribution, or say under the function's name that it is none."""
    if not isinstance(distribution, RankDistribution):
        raise TypeError(
            f"{function}: expected distribution to be an empool.RankDistribution, got {type(distribution).__name__}"
        )
    return distribution


def by_value(function: str, beta: float | Tensor) -> float | Tensor:
    """Return the weight of a softmax, checked."""
    if not isinstance(beta, Tensor):
        return finite(function, "beta", beta)
    if beta.dim() > 1 or not beta.numel() or not beta.dtype.is_floating_point:
        raise ValueError(
            f"{function}: expected beta as one floating-point number or one a channel, "
            f"got {tuple(beta.shape)} of {beta.dtype}"
        )
    _check_each(function, "beta", beta, finite)
    return beta


def _check_each(function: str, name: str, numbers: Tensor, check: Callable[..., float]) -> None:
    """Check a tensor's numbers if they can be read without waiting for a device, and nothing traces the call."""
    if numbers.device.type == "cpu" and not _private.is_watched(numbers):
        for value in numbers.detach().double().aminmax():  # A NaN is both.
            check(function, name, value.item())


class Plan(NamedTuple):
    """What a call's plain numbers come to: where the windows are, and how many valid activations they can hold."""

    geometry: Geometry
    counts: tuple[int, ...]
    may_hold_nothing: bool = False


def _pool_others(
    function: str, dims: int, input: Tensor, windows: Windows, return_indices: bool, method: Method
) -> Any:
    """Take the maximum of what PyTorch takes it of, such as integers, in either phase; there is no expectation."""
    if input.is_quantized and input.qscheme() == torch.per_tensor_affine:
        made = pool(function, dims, input.dequantize(), windows, return_indices, method)
        output, *indices = made if return_indices else (made,)
        # The output lies between activations, so their scale does for it, as for PyTorch's average.
        output = torch.quantize_per_tensor(output, input.q_scale(), input.q_zero_point(), input.dtype)
        return (output, *indices) if return_indices else output
    if input.is_quantized:  # With a scale for each channel, which PyTorch's pooling refuses too.
        raise TypeError(f"{function}: expected one scale for the whole input; convert it with .dequantize()")
    plan = _plan(dims, input.shape[-dims - 1 :], windows) if input.dim() in (dims + 1, dims + 2) else None
    if plan is None:
        windows.max_pool(input, dims, return_indices)  # Raises PyTorch's own error, if it has one.
    elif isinstance(method.tables, Tables) and not method.tables.get(plan.counts, True, torch.device("cpu")).draws:
        return windows.max_pool(input, dims, return_indices)
    remedy = "" if input.is_complex() else "; convert it with .float()"
    raise TypeError(
        f"{function}: expected a floating-point input (float32, float64, float16 or bfloat16), got {input.dtype}"
        f"{remedy}"
    )


def plan_of(function: str, dims: int, input: Tensor, windows: Windows, return_indices: bool) -> Plan | None:
    """Make the plan; a geometry that PyTorch refuses raises PyTorch's own error.

    There is none where PyTorch's adaptive pooling gives an empty tensor.
    """
    sizes = input.shape
    if len(sizes) == dims + 2 or len(sizes) == dims + 1:
        plan = _plan(dims, sizes[-dims - 1 :], windows)
        if plan is not None:
            return plan
    found = windows.max_pool(input, dims, return_indices)
    if windows.adaptive and not (found[0] if return_indices else found).numel():
        return None
    given = windows.output_size if windows.adaptive else tuple(windows[:5])
    raise TypeError(f"{function}: expected whole numbers for the geometry, got {given}")


def _plan(dims: int, sizes: Sequence[int], windows: Windows) -> Plan | None:
    """Return the plan if PyTorch surely accepts the windows for an input of these sizes, channels first.

    The user's arguments become plain numbers first; what those come to is remembered.
    """
    kernel_size, stride, padding, dilation, ceil_mode, output_size, adaptive = windows
    if adaptive:
        output = _numbers(output_size, dims, none=True)
        return None if output is None else remembered(_adaptive, sizes, output)
    kernel, pads, steps = _numbers(kernel_size, dims), _numbers(padding, dims), _numbers(dilation, dims)
    no_stride = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    strides = kernel if no_stride else _numbers(stride, dims)
    if kernel is None or strides is None or pads is None or steps is None or type(ceil_mode) is not bool:
        return None
    return remembered(_regular, sizes, kernel, strides, pads, steps, ceil_mode)


def counts_of(dims: int, kernel_size: Any, padding: Any, ceil_mode: Any) -> tuple[int, ...]:
    """Return how many activations windows can hold; nothing where they can't be made out, or tables would be large."""
    kernel, pads = _numbers(kernel_size, dims), _numbers(padding, dims)
    if kernel is None or pads is None or min(kernel) < 1 or math.prod(kernel) > _LARGE:
        return ()
    counts = Geometry(kernel, kernel, pads, kernel, (), bool(ceil_mode)).possible_counts()
    return counts if len(counts) * counts[-1] <= 8 * _LARGE else ()


def _numbers(size: Any, dims: int, none: bool = False) -> tuple[Any, ...] | None:
    """Return one whole number for each dimension, or nothing where they cannot be made out."""
    if type(size) is int or (none and size is None):
        return (size,) * dims
    listed = isinstance(size, (tuple, list))
    numbers = tuple(size) if listed else (size,)
    if len(numbers) != dims and (len(numbers) != 1 or (listed and none)):  # Adaptive pooling takes no list of one.
        return None
    found: list[int | None] = []
    for number in numbers:
        if type(number) is int or (none and number is None):
            found.append(number)
        elif isinstance(number, bool) or not hasattr(number, "__index__"):
            return None
        else:
            try:  # NumPy's whole numbers and tensors of one too, as PyTorch does.
                found.append(operator.index(number))
            except TypeError:  # What has the method without being a whole number: an array, a tensor of several.
                return None
    return tuple(found) if len(found) == dims else tuple(found) * dims


def _regular(sizes: Sequence[int], *arguments: Any) -> Plan | None:
    kernel_size, stride, padding, dilation, ceil_mode = arguments
    geometry = Geometry(kernel_size, stride, padding, dilation, (), ceil_mode)
    if not all(size > 0 for size in sizes):
        return None
    windows = zip(kernel_size, stride, padding, dilation, strict=True)
    if not all(k > 0 and s > 0 and 0 <= 2 * p <= k and d > 0 for k, s, p, d in windows):
        return None
    output = geometry.output_sizes(sizes[1:])
    if ceil_mode and not any(padding) and not torch.compiler.is_compiling():
        floor = geometry._replace(ceil_mode=False)
        if floor.output_sizes(sizes[1:]) == output:
            geometry = floor  # Every window is whole: one count, and the kernels' fast paths.
    if not all(size > 0 for size in output):
        return None
    return Plan(geometry, geometry.possible_counts(), geometry.may_hold_nothing())


def _adaptive(sizes: Sequence[int], output_size: Sequence[int | None]) -> Plan | None:
    """Plan adaptive windows; where they are all alike and meet, as the regular ones that they are."""
    spatial = [int(size) for size in sizes[1:]]  # The windows' extents are numbers, not symbols.
    output = [size if out is None else out for size, out in zip(spatial, output_size, strict=True)]
    if not all(size > 0 for size in (*sizes, *output)):
        return None
    ones, zeros = (1,) * len(spatial), (0,) * len(spatial)
    if all(size % out == 0 for size, out in zip(spatial, output, strict=True)):
        kernel = tuple([size // out for size, out in zip(spatial, output, strict=True)])
        return Plan(Geometry(kernel, kernel, zeros, ones), (math.prod(kernel),))
    kernel = tuple([max(adaptive_extents(size, out)) for size, out in zip(spatial, output, strict=True)])
    geometry = Geometry(kernel, ones, zeros, ones, tuple(output))
    return Plan(geometry, geometry.possible_counts(spatial))


def check_training(function: str, method: Method) -> None:
    """Refuse a phase that is neither true nor false."""
    if method.training not in (True, False):
        raise TypeError(f"{function}: expected training to be True or False, got {method.training!r}")


def check_draw(function: str, input: Tensor, method: Method) -> None:
    """Check what says which random numbers to take."""
    seed, generator = method.seed, method.generator
    if method.tied is not None and method.tied not in TIED:
        raise ValueError(f"{function}: expected tied to be 'channel', 'position', 'image' or None, got {method.tied!r}")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"{function}: expected a torch.Generator, got {type(generator).__name__}")
        if seed is not None:
            raise ValueError(f"{function}: expected a seed or a generator, got both")
        if generator.device.type != input.device.type:
            raise ValueError(f"{function}: expected a generator on {input.device}, got one on {generator.device}")
    if seed is None:
        return
    if isinstance(seed, Tensor):
        sound = (seed.dtype == torch.int64 and seed.numel() == 1) or _is_key(seed)
        if not sound or seed.device != input.device:
            raise ValueError(
                f"{function}: expected seed as one int64 on {input.device}, "
                f"got {tuple(seed.shape)} of {seed.dtype} on {seed.device}"
            )
        return
    if isinstance(seed, bool) or not (isinstance(seed, int) or hasattr(seed, "__index__")):
        raise TypeError(f"{function}: expected seed to be an int, a tensor or None, got {type(seed).__name__}")
    if not -(2**63) <= _index(seed) < 2**64:
        raise ValueError(f"{function}: expected a seed of 64 bits, got {seed}")


def _is_key(seed: Tensor) -> bool:
    """Tell whether it is one of `torch.func._random`'s keys: its seed, and how far the stream has come."""
    return seed.dtype == torch.uint64 and seed.shape == (2,)


def _key(input: Tensor, method: Method) -> Tensor:
    """Return the seed as a tensor on the input's device, drawn there if none is given: nothing waits for the device."""
    seed = method.seed
    if seed is None:
        # Of size 1, as AOTInductor makes nothing of an empty size.
        key = torch.randint(-(2**63), 2**63 - 1, (1,), device=input.device, generator=method.generator)
        return key.reshape(())
    if isinstance(seed, Tensor):
        if _is_key(seed):
            words = seed.view(torch.int64)
            return words[0] + words[1] * 0x1E3779B97F4A7C15  # An odd number: no two offsets meet.
        return seed.reshape(())
    return torch.full((), signed(_index(seed)), dtype=torch.int64, device=input.device)


def _index(seed: SupportsIndex) -> int:
    """Return the seed as an int.

    A compiled graph is for one value of what `operator.index` sees; Inductor knows no symbols beyond 63 bits.
    """
    return seed if isinstance(seed, int) and seed < 2**63 else operator.index(seed)


def signed(seed: int) -> int:
    """Return the signed number of the same 64 bits."""
    return seed - 2**64 if seed >= 2**63 else seed


def _max_indices(input: Tensor, geometry: Geometry) -> Tensor:
    dims = input.dim() - 2
    if geometry.output_size:
        adaptive: Tensor = _ADAPTIVE[dims](input.detach(), geometry.output_size, True)[1]
        return adaptive
    windows = (*geometry[:4], geometry.ceil_mode)
    indices: Tensor = _MAX_POOL[dims](input.detach(), *windows, return_indices=True)[1]
    return indices


def _drawn_indices(drawn: Tensor, input: Tensor, geometry: Geometry, zeros: bool) -> Tensor:
    """Turn offsets in windows into flat indices; where no activation was drawn, the maximum's."""
    sizes = input.shape[2:]
    index = _flat_offsets(geometry, sizes, drawn)[drawn.to(torch.int64)]
    step = 1
    for dim in reversed(range(len(sizes))):
        start = geometry.starts(dim, sizes[dim], drawn.size(dim + 2), drawn.device)
        index += (start * step).reshape(-1, *[1] * (len(sizes) - 1 - dim))
        step *= sizes[dim]
    if not zeros:
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
