"""A tandem: pooling with the stride of a convolution, then that convolution with stride 1."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from empool.distributions import Pooling
from empool.pooling import layer

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class TandemConv1d(nn.Conv1d):
    """Pooling with stride 2, then a convolution with stride 1; `to_tandem` makes it, see there."""

    pool: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.pool(input))


class TandemConv2d(nn.Conv2d):
    """Pooling with stride 2, then a convolution with stride 1; `to_tandem` makes it, see there."""

    pool: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.pool(input))


class TandemConv3d(nn.Conv3d):
    """Pooling with stride 2, then a convolution with stride 1; `to_tandem` makes it, see there."""

    pool: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.pool(input))


_TANDEMS: dict[type[nn.Module], tuple[int, Any]] = {
    nn.Conv1d: (1, TandemConv1d),
    nn.Conv2d: (2, TandemConv2d),
    nn.Conv3d: (3, TandemConv3d),
}


def halves(module: nn.Module) -> bool:
    """Tell whether a module is a convolution with a stride of 2, and of no more than 2 in any dimension."""
    return isinstance(module, Convolution) and max(module.stride) == 2


def to_tandem(convolution: Convolution, pooling: Pooling) -> Convolution:
    """Return the tandem of a convolution with stride 2: pooling with stride 2, then the convolution with stride 1.

    It multiplies as often. Windows are as large as the stride and have no padding, so every activation is pooled
    once. The output has the strided convolution's sizes, also for odd input sizes, where the last window is smaller.
    The weights are shared, not copied, and have the same names, so a `state_dict` of one fits the other.

    Args:
        convolution: one of `torch.nn`'s, with a stride of 2 in at least one dimension and padding of half its kernel.
        pooling: what to pool with.

    Raises:
        TypeError: for any other module, also for a subclass of a convolution, whose own forward would be lost.
        ValueError: if the stride is not 2, or no tandem has the same output sizes.

    Source: Zhang and Wu, J. USTC 47(10), 2017.

    Example:
        >>> from torch import nn
        >>> from empool import EnsembleMax
        >>> from empool.tandem import to_tandem
        >>> to_tandem(nn.Conv2d(16, 32, 3, stride=2, padding=1), EnsembleMax(0.1))
        TandemConv2d(
          16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)
          (pool): EnsembleMaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=0, dilation=1, ceil_mode=True, p=0.1)
        )
    """
    if type(convolution) not in _TANDEMS:
        kind = type(convolution)
        raise TypeError(
            "to_tandem: expected torch.nn.Conv1d, Conv2d or Conv3d itself, as a subclass may compute something else, "
            f"got {kind.__module__}.{kind.__qualname__}; convert a model before other tools change its layers"
        )
    if not halves(convolution):
        raise ValueError(f"to_tandem: expected a stride of 2, got {convolution.stride}")
    dims, kind = _TANDEMS[type(convolution)]
    padding = (0,) * dims if isinstance(convolution.padding, str) else convolution.padding
    for side, stride, around, step in zip(
        convolution.kernel_size, convolution.stride, padding, convolution.dilation, strict=True
    ):
        if stride > 1 and 2 * around != step * (side - 1):
            raise ValueError(
                "to_tandem: expected a padding of dilation * (kernel_size - 1) / 2, without which the output would "
                f"change size, got padding {padding} with kernel_size {convolution.kernel_size} and dilation "
                f"{convolution.dilation}"
            )
    tandem: Convolution = kind.__new__(kind)
    # Everything is shared with the convolution: parameters, hooks, mode, padding mode.
    vars(tandem).update(vars(convolution))
    vars(tandem).update(_parameters=dict(convolution._parameters), _modules={}, stride=(1,) * dims)
    pool = layer(pooling, dims, convolution.stride, convolution.stride, ceil_mode=True)
    tandem.pool = pool.train(convolution.training)
    return tandem
