"""The pooling layers: they hold arguments and call `empool.functional` once; no parameters, no buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import Proxy
from torch.nn.modules.pooling import _MaxPoolNd

from empool import functional
from empool._call import Size, distribution_argument
from empool.distributions import RankDistribution, probability, share


class _Pool(_MaxPoolNd):
    """The arguments of `torch.nn.MaxPool2d`, and a method's own by name."""

    _function: ClassVar[Callable[..., Any]]
    _own: ClassVar[tuple[str, ...]] = ()

    def forward(self, input: Tensor | Proxy) -> Any:
        if isinstance(input, Proxy) and self._is_leaf(input.tracer):
            return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})  # type: ignore[attr-defined]
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            training=self.training,
            **{name: getattr(self, name) for name in self._own},
        )

    def _is_leaf(self, tracer: Any) -> bool:
        """Tell whether a symbolic trace can record a call of the layer, as of torch.nn's own, so its phase stays open.

        Not where a call does more than pool, which the trace records as well, or where the layer is all there is.
        """
        hooks = self._forward_hooks or self._forward_pre_hooks
        return type(self).forward is _Pool.forward and not hooks and tracer.root is not self

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={getattr(self, name)}" for name in self._own)])


class _EnsembleMaxPool(_Pool):
    _own = ("p",)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        p: float = 0.1,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.p = probability(type(self).__name__, "p", p)


class EnsembleMaxPool1d(_EnsembleMaxPool):
    """Ensemble max-pooling: in training the runner-up replaces the largest activation with probability p.

    In testing the output is the exact expectation, ``(1 - p) * largest + p * second``. With p = 0 it is max-pooling.

    Arguments and shapes are those of `torch.nn.MaxPool1d`; see `empool.functional.ensemble_max_pool1d`.
    """

    _function = functional.ensemble_max_pool1d


class EnsembleMaxPool2d(_EnsembleMaxPool):
    """Ensemble max-pooling: in training the runner-up replaces the largest activation with probability p.

    In testing the output is the exact expectation, ``(1 - p) * largest + p * second``. With p = 0 it is max-pooling.

    Arguments and shapes are those of `torch.nn.MaxPool2d`; see `empool.functional.ensemble_max_pool2d`.
    """

    _function = functional.ensemble_max_pool2d


class EnsembleMaxPool3d(_EnsembleMaxPool):
    """Ensemble max-pooling: in training the runner-up replaces the largest activation with probability p.

    In testing the output is the exact expectation, ``(1 - p) * largest + p * second``. With p = 0 it is max-pooling.

    Arguments and shapes are those of `torch.nn.MaxPool3d`; see `empool.functional.ensemble_max_pool3d`.
    """

    _function = functional.ensemble_max_pool3d


class _MaxPoolDropout(_Pool):
    _own = ("p",)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        p: float = 0.2,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.p = probability(type(self).__name__, "p", p)


class MaxPoolDropout1d(_MaxPoolDropout):
    """Max-pooling dropout: in training every activation is dropped with probability p before the maximum is taken.

    In testing the output is the exact expectation, called probabilistic weighted pooling.

    Arguments and shapes are those of `torch.nn.MaxPool1d`; see `empool.functional.max_pool_dropout1d`.
    """

    _function = functional.max_pool_dropout1d


class MaxPoolDropout2d(_MaxPoolDropout):
    """Max-pooling dropout: in training every activation is dropped with probability p before the maximum is taken.

    In testing the output is the exact expectation, called probabilistic weighted pooling.

    Arguments and shapes are those of `torch.nn.MaxPool2d`; see `empool.functional.max_pool_dropout2d`.
    """

    _function = functional.max_pool_dropout2d


class MaxPoolDropout3d(_MaxPoolDropout):
    """Max-pooling dropout: in training every activation is dropped with probability p before the maximum is taken.

    In testing the output is the exact expectation, called probabilistic weighted pooling.

    Arguments and shapes are those of `torch.nn.MaxPool3d`; see `empool.functional.max_pool_dropout3d`.
    """

    _function = functional.max_pool_dropout3d


class _StochasticMaxPool(_Pool):
    _own = ("drop",)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        drop: float = 0.5,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.drop = share(type(self).__name__, "drop", drop)


class StochasticMaxPool1d(_StochasticMaxPool):
    """Stochastic max-pooling: in training a fixed share of each window is dropped before the maximum is taken.

    In testing the output is the exact expectation.

    Arguments and shapes are those of `torch.nn.MaxPool1d`; see `empool.functional.stochastic_max_pool1d`.
    """

    _function = functional.stochastic_max_pool1d


class StochasticMaxPool2d(_StochasticMaxPool):
    """Stochastic max-pooling: in training a fixed share of each window is dropped before the maximum is taken.

    In testing the output is the exact expectation.

    Arguments and shapes are those of `torch.nn.MaxPool2d`; see `empool.functional.stochastic_max_pool2d`.
    """

    _function = functional.stochastic_max_pool2d


class StochasticMaxPool3d(_StochasticMaxPool):
    """Stochastic max-pooling: in training a fixed share of each window is dropped before the maximum is taken.

    In testing the output is the exact expectation.

    Arguments and shapes are those of `torch.nn.MaxPool3d`; see `empool.functional.stochastic_max_pool3d`.
    """

    _function = functional.stochastic_max_pool3d


class StochasticPool1d(_Pool):
    """Stochastic pooling: in training an activation is drawn in proportion to its positive part.

    In testing the output is the sum of squares over the sum.

    Arguments and shapes are those of `torch.nn.MaxPool1d`; see `empool.functional.stochastic_pool1d`.
    """

    _function = functional.stochastic_pool1d


class StochasticPool2d(_Pool):
    """Stochastic pooling: in training an activation is drawn in proportion to its positive part.

    In testing the output is the sum of squares over the sum.

    Arguments and shapes are those of `torch.nn.MaxPool2d`; see `empool.functional.stochastic_pool2d`.
    """

    _function = functional.stochastic_pool2d


class StochasticPool3d(_Pool):
    """Stochastic pooling: in training an activation is drawn in proportion to its positive part.

    In testing the output is the sum of squares over the sum.

    Arguments and shapes are those of `torch.nn.MaxPool3d`; see `empool.functional.stochastic_pool3d`.
    """

    _function = functional.stochastic_pool3d


class _RankPool(_Pool):
    _own = ("distribution",)

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
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self.distribution = distribution_argument(type(self).__name__, distribution)


class RankPool1d(_RankPool):
    """Pooling by any rank distribution: in training a rank is drawn, in testing the expectation is taken.

    Arguments and shapes are those of `torch.nn.MaxPool1d`; see `empool.functional.rank_pool1d`.
    """

    _function = functional.rank_pool1d


class RankPool2d(_RankPool):
    """Pooling by any rank distribution: in training a rank is drawn, in testing the expectation is taken.

    Arguments and shapes are those of `torch.nn.MaxPool2d`; see `empool.functional.rank_pool2d`.
    """

    _function = functional.rank_pool2d


class RankPool3d(_RankPool):
    """Pooling by any rank distribution: in training a rank is drawn, in testing the expectation is taken.

    Arguments and shapes are those of `torch.nn.MaxPool3d`; see `empool.functional.rank_pool3d`.
    """

    _function = functional.rank_pool3d
