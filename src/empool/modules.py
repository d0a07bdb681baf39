"""The pooling layers: they hold arguments and call `empool.functional` once; no buffers, parameters only if learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _MaxPoolNd

from empool import functional
from empool._call import OutputSize, Seed, Size, Tied, distribution_argument
from empool._tables import Learned, Tables
from empool.distributions import (
    EnsembleMax,
    Max,
    MaxDropout,
    RankDistribution,
    StochasticMax,
    Tunable,
    finite,
    probability,
    share,
)

Number = float | Iterable[float] | Tensor
"""A method's own number: one, or one for each channel."""


class _Pool(nn.Module):
    """A layer that samples: its method's own arguments by name, and where its random numbers come from."""

    _function: ClassVar[Callable[..., Any]]
    _own: ClassVar[tuple[str, ...]] = ()
    _geometry: ClassVar[tuple[str, ...]]
    seed: Seed = None
    generator: Generator | None = None
    tied: Tied = None

    def _draw_by(self, seed: Seed, generator: Generator | None, tied: Tied) -> None:
        # Only what is given: a layer that was pickled before there were these has none.
        for name, value in (("seed", seed), ("generator", generator), ("tied", tied)):
            if value is not None:
                setattr(self, name, value)

    def forward(self, input: Tensor | Proxy) -> Any:
        """Pool."""
        if isinstance(input, Proxy):
            if self._is_leaf(input.tracer):
                return self._leaf(input)
            own = {name: getattr(self, name) for name in self._own}
        else:
            own = self._arguments()
        return type(self)._function(
            input,
            *[getattr(self, name) for name in self._geometry],
            training=self.training,
            seed=self.seed,
            generator=self.generator,
            tied=self.tied,
            **own,
        )

    def _arguments(self) -> dict[str, Any]:
        """Return the method's own arguments, as the layer keeps them."""
        return {name: getattr(self, name) for name in self._own}

    def _is_leaf(self, tracer: Any) -> bool:
        """Tell whether a symbolic trace can record a call of the layer, as of torch.nn's own, so its phase stays open.

        Not where a call does more than pool, which the trace records as well, or where the layer is all there is.
        """
        hooks = self._forward_hooks or self._forward_pre_hooks
        return type(self).forward.__module__ == __name__ and not hooks and tracer.root is not self

    def _leaf(self, input: Proxy) -> Any:
        return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})  # type: ignore[attr-defined]

    def extra_repr(self) -> str:
        given = [name for name in ("seed", "generator", "tied") if getattr(self, name) is not None]
        own = [f"{name}={_spelled(getattr(self, name))}" for name in (*self._own, *given)]
        return ", ".join([super().extra_repr(), *own])


def _spelled(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


class _WindowPool(_Pool, _MaxPoolNd):
    _geometry = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


class _AdaptivePool(_Pool, _AdaptiveMaxPoolNd):
    _geometry = ("output_size", "return_indices")


class _Tabled(_Pool):
    """A layer that keeps a rank distribution's tables: not as buffers, which `half` rounds and `state_dict` saves."""

    _tables: Tables

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._tables = copy.copy(self._tables)  # `copy.copy` of a layer shares what it holds.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._tables.number is not None:
            self._tables.to(fn(torch.empty(0, device=self._tables.number.device)).device)
        return self


class _Numbered(_Tabled):
    """A layer of a distribution with one number, which may differ by channel."""

    _kind: ClassVar[type[Tunable]]
    _check: ClassVar[Callable[..., float]] = staticmethod(probability)

    def _read(self) -> Any:
        values = [getattr(distribution, self._own[0]) for distribution in self._tables.each]
        return values[0] if len(values) == 1 else torch.tensor(values, dtype=torch.float64)

    def _write(self, number: Number) -> None:
        name = self._own[0]
        values: Any = number.detach().tolist() if isinstance(number, Tensor) else number
        values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
        each = [self._kind(type(self)._check(type(self).__name__, name, value)) for value in values]  # type: ignore[call-arg]
        if not each:
            raise ValueError(f"{type(self).__name__}: expected {name} as a number or one for each channel, got none")
        if "_tables" in vars(self):
            self._tables.set(each)
        else:
            self._tables = Tables(each)

    def _arguments(self) -> dict[str, Any]:
        return {self._own[0]: self._tables}


class _EnsembleMaxPoolMethod(_Numbered):
    _own = ("p",)
    _kind = EnsembleMax
    p = property(_Numbered._read, _Numbered._write)


class _EnsembleMaxPool(_EnsembleMaxPoolMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        p: Number = 0.1,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.p = p
        self._draw_by(seed, generator, tied)


class EnsembleMaxPool1d(_EnsembleMaxPool):
    """`EnsembleMaxPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.ensemble_max_pool1d


class EnsembleMaxPool2d(_EnsembleMaxPool):
    """Ensemble max-pooling: outputs the second largest activation with probability p in training.

    In eval mode the output is the exact expectation, ``(1 - p) * largest + p * second``. With p = 0 the layer is
    `torch.nn.MaxPool2d`, bit for bit.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        p: probability of dropping the largest activation, in [0, 1]; several are one for each channel.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.EnsembleMaxPool2d(3, stride=2, padding=1, p=0.4)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Zhang and Wu, J. USTC 47(10), 2017.
    """

    _function = functional.ensemble_max_pool2d


class EnsembleMaxPool3d(_EnsembleMaxPool):
    """`EnsembleMaxPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.ensemble_max_pool3d


class _AdaptiveEnsembleMaxPool(_EnsembleMaxPoolMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        p: Number = 0.1,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self.p = p
        self._draw_by(seed, generator, tied)


class AdaptiveEnsembleMaxPool1d(_AdaptiveEnsembleMaxPool):
    """`EnsembleMaxPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_ensemble_max_pool1d


class AdaptiveEnsembleMaxPool2d(_AdaptiveEnsembleMaxPool):
    """`EnsembleMaxPool2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `EnsembleMaxPool2d`.

    Example:
        >>> pool = empool.AdaptiveEnsembleMaxPool2d(1, p=0.4)
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_ensemble_max_pool2d


class AdaptiveEnsembleMaxPool3d(_AdaptiveEnsembleMaxPool):
    """`EnsembleMaxPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_ensemble_max_pool3d


class _MaxPoolDropoutMethod(_Numbered):
    _own = ("p",)
    _kind = MaxDropout
    p = property(_Numbered._read, _Numbered._write)


class _MaxPoolDropout(_MaxPoolDropoutMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        p: Number = 0.2,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.p = p
        self._draw_by(seed, generator, tied)


class MaxPoolDropout1d(_MaxPoolDropout):
    """`MaxPoolDropout2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.max_pool_dropout1d


class MaxPoolDropout2d(_MaxPoolDropout):
    """Max-pooling dropout: drops each activation with probability p in training, then takes the maximum.

    Where all activations of a window are dropped, the output is 0. In eval mode it is the exact expectation. Meant for
    non-negative activations.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        p: probability of dropping an activation, in [0, 1]; several are one for each channel.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.MaxPoolDropout2d(3, stride=2, padding=1, p=0.4)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Wu and Gu, arXiv 1512.01400, 2015.
    """

    _function = functional.max_pool_dropout2d


class MaxPoolDropout3d(_MaxPoolDropout):
    """`MaxPoolDropout2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.max_pool_dropout3d


class _AdaptiveMaxPoolDropout(_MaxPoolDropoutMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        p: Number = 0.2,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self.p = p
        self._draw_by(seed, generator, tied)


class AdaptiveMaxPoolDropout1d(_AdaptiveMaxPoolDropout):
    """`MaxPoolDropout1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_max_pool_dropout1d


class AdaptiveMaxPoolDropout2d(_AdaptiveMaxPoolDropout):
    """`MaxPoolDropout2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `MaxPoolDropout2d`.

    Example:
        >>> pool = empool.AdaptiveMaxPoolDropout2d(1, p=0.4)
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_max_pool_dropout2d


class AdaptiveMaxPoolDropout3d(_AdaptiveMaxPoolDropout):
    """`MaxPoolDropout3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_max_pool_dropout3d


class _StochasticMaxPoolMethod(_Numbered):
    _own = ("drop",)
    _kind = StochasticMax
    _check = staticmethod(share)
    drop = property(_Numbered._read, _Numbered._write)


class _StochasticMaxPool(_StochasticMaxPoolMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        drop: Number = 0.5,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.drop = drop
        self._draw_by(seed, generator, tied)


class StochasticMaxPool1d(_StochasticMaxPool):
    """`StochasticMaxPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.stochastic_max_pool1d


class StochasticMaxPool2d(_StochasticMaxPool):
    """Stochastic max-pooling: drops a fixed share of each window in training, then takes the maximum.

    Of n activations floor(drop * n) are dropped. In eval mode the output is the exact expectation.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        drop: share of the activations to drop, in [0, 1); several are one for each channel.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.StochasticMaxPool2d(3, stride=2, padding=1, drop=0.5)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Huang et al., CVPR Workshops, 2015.
    """

    _function = functional.stochastic_max_pool2d


class StochasticMaxPool3d(_StochasticMaxPool):
    """`StochasticMaxPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.stochastic_max_pool3d


class _AdaptiveStochasticMaxPool(_StochasticMaxPoolMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        drop: Number = 0.5,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self.drop = drop
        self._draw_by(seed, generator, tied)


class AdaptiveStochasticMaxPool1d(_AdaptiveStochasticMaxPool):
    """`StochasticMaxPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_stochastic_max_pool1d


class AdaptiveStochasticMaxPool2d(_AdaptiveStochasticMaxPool):
    """`StochasticMaxPool2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `StochasticMaxPool2d`.

    Example:
        >>> pool = empool.AdaptiveStochasticMaxPool2d(1, drop=0.5)
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_stochastic_max_pool2d


class AdaptiveStochasticMaxPool3d(_AdaptiveStochasticMaxPool):
    """`StochasticMaxPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_stochastic_max_pool3d


class _StochasticPoolMethod(_Pool):
    _own = ()


class _StochasticPool(_StochasticPoolMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self._draw_by(seed, generator, tied)


class StochasticPool1d(_StochasticPool):
    """`StochasticPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.stochastic_pool1d


class StochasticPool2d(_StochasticPool):
    """Stochastic pooling: samples an activation in proportion to its positive part in training.

    In eval mode the output is the exact expectation, the sum of squares over the sum. Where no activation is positive
    it is 0.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.StochasticPool2d(3, stride=2, padding=1)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Zeiler and Fergus, arXiv 1301.3557, 2013.
    """

    _function = functional.stochastic_pool2d


class StochasticPool3d(_StochasticPool):
    """`StochasticPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.stochastic_pool3d


class _AdaptiveStochasticPool(_StochasticPoolMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self._draw_by(seed, generator, tied)


class AdaptiveStochasticPool1d(_AdaptiveStochasticPool):
    """`StochasticPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_stochastic_pool1d


class AdaptiveStochasticPool2d(_AdaptiveStochasticPool):
    """`StochasticPool2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `StochasticPool2d`.

    Example:
        >>> pool = empool.AdaptiveStochasticPool2d(1)
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_stochastic_pool2d


class AdaptiveStochasticPool3d(_AdaptiveStochasticPool):
    """`StochasticPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_stochastic_pool3d


class _SoftPoolMethod(_Pool):
    _own = ("beta",)
    beta: Any

    def _set_beta(self, beta: Number, trainable: bool) -> None:
        owner = type(self).__name__
        values: Any = beta.detach().tolist() if isinstance(beta, Tensor) else beta
        several = isinstance(values, Iterable) and not isinstance(values, str)
        checked = [finite(owner, "beta", value) for value in (values if several else [values])]
        if trainable or isinstance(beta, nn.Parameter):
            self.beta = beta if isinstance(beta, nn.Parameter) else nn.Parameter(torch.tensor(checked))
        else:
            self.beta = torch.tensor(checked, dtype=torch.float64) if several else checked[0]


class _SoftPool(_SoftPoolMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        beta: Number = 1.0,
        trainable: bool = False,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self._set_beta(beta, trainable)
        self._draw_by(seed, generator, tied)


class SoftPool1d(_SoftPool):
    """`SoftPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.soft_pool1d


class SoftPool2d(_SoftPool):
    """Soft pooling: samples an activation by the softmax of beta times the activations in training.

    In eval mode the output is the exact expectation, which is SoftPool. Activations of any sign will do.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        beta: 0 is average pooling, large values are max-pooling; several are one for each channel.
        trainable: make beta a parameter, as a beta that is one always is. A sample sends it the gradient of the
            expectation.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.SoftPool2d(3, stride=2, padding=1, beta=1.0)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Stergiou et al., ICCV 2021, arXiv 2101.00440.
    """

    _function = functional.soft_pool2d


class SoftPool3d(_SoftPool):
    """`SoftPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.soft_pool3d


class _AdaptiveSoftPool(_SoftPoolMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        beta: Number = 1.0,
        trainable: bool = False,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self._set_beta(beta, trainable)
        self._draw_by(seed, generator, tied)


class AdaptiveSoftPool1d(_AdaptiveSoftPool):
    """`SoftPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_soft_pool1d


class AdaptiveSoftPool2d(_AdaptiveSoftPool):
    """`SoftPool2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `SoftPool2d`.

    Example:
        >>> pool = empool.AdaptiveSoftPool2d(1)
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_soft_pool2d


class AdaptiveSoftPool3d(_AdaptiveSoftPool):
    """`SoftPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_soft_pool3d


class _RankPoolMethod(_Tabled):
    _own = ("distribution",)

    @property
    def distribution(self) -> RankDistribution:
        """How likely each rank is."""
        return self._tables.each[0]

    @distribution.setter
    def distribution(self, distribution: RankDistribution) -> None:
        each = [distribution_argument(type(self).__name__, distribution)]
        if "_tables" in vars(self):
            self._tables.set(each)
        else:
            self._tables = Tables(each)

    def _arguments(self) -> dict[str, Any]:
        # What says that it cannot change has its tables kept; what may have changed is asked at every call.
        return {"distribution": self._tables if self._tables.is_unchanging else self.distribution}


class _RankPool(_RankPoolMethod, _WindowPool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        distribution: RankDistribution,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.distribution = distribution
        self._draw_by(seed, generator, tied)


class RankPool1d(_RankPool):
    """`RankPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _function = functional.rank_pool1d


class RankPool2d(_RankPool):
    """Pooling by any rank distribution: samples a rank in training, and outputs that activation.

    In eval mode the output is the exact expectation.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        distribution: probability of each rank, such as `empool.Ordinal`, `empool.TopMean` or one of your own.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.RankPool2d(3, stride=2, padding=1, distribution=empool.Ordinal((0.6, 0.3, 0.1)))
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])
    """

    _function = functional.rank_pool2d


class RankPool3d(_RankPool):
    """`RankPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _function = functional.rank_pool3d


class _AdaptiveRankPool(_RankPoolMethod, _AdaptivePool):
    def __init__(
        self,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        distribution: RankDistribution,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self.distribution = distribution
        self._draw_by(seed, generator, tied)


class AdaptiveRankPool1d(_AdaptiveRankPool):
    """`RankPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""

    _function = functional.adaptive_rank_pool1d


class AdaptiveRankPool2d(_AdaptiveRankPool):
    """`RankPool2d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool2d`.

    Args:
        output_size: height and width of the output, or one number for both; None keeps the input's.
        return_indices: also return the flat index of each output.

    The other arguments are those of `RankPool2d`.

    Example:
        >>> pool = empool.AdaptiveRankPool2d(1, distribution=empool.Average())
        >>> pool(torch.randn(8, 64, 7, 7)).shape
        torch.Size([8, 64, 1, 1])
    """

    _function = functional.adaptive_rank_pool2d


class AdaptiveRankPool3d(_AdaptiveRankPool):
    """`RankPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""

    _function = functional.adaptive_rank_pool3d


class _LearnedRankPool(_WindowPool):
    _own = ("ranks", "channels", "sample")
    _dims: ClassVar[int]
    _start: RankDistribution

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        ranks: int | None = None,
        channels: int | None = None,
        start: RankDistribution | None = None,
        sample: bool = False,
        seed: Seed = None,
        generator: Generator | None = None,
        tied: Tied = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self._draw_by(seed, generator, tied)
        size = kernel_size if isinstance(kernel_size, Iterable) else [kernel_size] * self._dims
        volume = int(torch.Size(size).numel())
        for name, number in (("ranks", ranks), ("channels", channels)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"{type(self).__name__}: expected {name} to be an int of at least 1, got {number}")
        if ranks is not None and ranks > volume:
            raise ValueError(
                f"{type(self).__name__}: expected ranks of at most {volume}, the activations of a window, got {ranks}"
            )
        self.ranks, self.channels, self.sample = ranks or volume, channels, sample
        self._start = distribution_argument(type(self).__name__, Max() if start is None else start)
        self.logits = nn.Parameter(torch.empty(channels or 1, self.ranks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from the distribution given, or from `LEAST` where it is 0, from which nothing grows."""
        weights = torch.zeros(self.ranks)
        start = self._start.probabilities(self.ranks)
        weights[: len(start)] = torch.tensor(start)
        with torch.no_grad():
            self.logits.copy_(weights.clamp(min=LEAST).log().expand_as(self.logits))

    @property
    def weights(self) -> Tensor:
        """The probabilities of ranks in a full window: ``(1 or channels, ranks)``."""
        return self.logits.softmax(-1)

    def forward(self, input: Tensor | Proxy) -> Any:
        """Pool."""
        if isinstance(input, Proxy) and self._is_leaf(input.tracer):
            return self._leaf(input)
        return type(self)._function(
            input,
            *[getattr(self, name) for name in self._geometry],
            distribution=Learned(self.logits),
            training=self.training and self.sample,
            seed=self.seed,
            generator=self.generator,
            tied=self.tied,
        )


LEAST = 1e-4
"""The probability that a learned rank starts from at least."""


class LearnedRankPool1d(_LearnedRankPool):
    """`LearnedRankPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""

    _dims = 1
    _function = functional.rank_pool1d


class LearnedRankPool2d(_LearnedRankPool):
    """Pooling by learned weights of ranks, the softmax of trainable logits: ordered weighted averaging.

    The output is the expectation in training and in eval mode. With ``sample=True`` training samples a rank, and the
    logits get the gradient of the expectation. A window with fewer activations than ranks renormalises its weights.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`.
        ceil_mode: round the output size up instead of down.
        ranks: number of ranks with a weight; by default all of the window.
        channels: number of channels, for weights of their own; by default all channels share one set.
        start: distribution to start from, by default max-pooling.
        sample: sample in training.
        seed: repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a sample: "channel" (all channels at a position), "position" (all positions of a
            map) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with OH and OW as `torch.nn.MaxPool2d` has them.

    Example:
        >>> pool = empool.LearnedRankPool2d(3, stride=2, padding=1)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Forcén et al., Neurocomputing 411, 2020.
    """

    _dims = 2
    _function = functional.rank_pool2d


class LearnedRankPool3d(_LearnedRankPool):
    """`LearnedRankPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    _dims = 3
    _function = functional.rank_pool3d
