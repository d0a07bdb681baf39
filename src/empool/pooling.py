"""Spellings of poolings, and the layers that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from empool import modules
from empool.distributions import (
    Average,
    EnsembleMax,
    Geometric,
    Max,
    MaxDropout,
    Mixed,
    Ordinal,
    Pooling,
    RankDistribution,
    Soft,
    Stochastic,
    StochasticMax,
    TopMean,
)

SPELLINGS: dict[str, Callable[..., Pooling]] = {
    "max": Max,
    "average": Average,
    "ensemble:P": EnsembleMax,
    "max-dropout:P": MaxDropout,
    "stochastic-max:DROP": StochasticMax,
    "stochastic": Stochastic,
    "soft:BETA": Soft,
    "top-mean:T": TopMean,
    "geometric:A": Geometric,
    "mixed:A": Mixed,
    "ordinal:W1,W2,...": Ordinal,
}
"""How each pooling is spelled, and its class."""

_LAYERS: dict[type[Pooling], str] = {
    EnsembleMax: "EnsembleMaxPool",
    MaxDropout: "MaxPoolDropout",
    StochasticMax: "StochasticMaxPool",
    Stochastic: "StochasticPool",
    Soft: "SoftPool",
}


class AvgPool2d(nn.AvgPool2d):
    """PyTorch's layer, with the right gradient for padded windows in channels-last on CUDA.

    Delete when no supported PyTorch has its issue 188344: https://github.com/pytorch/pytorch/issues/188344.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool maps ``(N, C, H, W)`` or ``(C, H, W)``."""
        if input.device.type != "cuda" or self.padding in (0, (0, 0)) or input.is_contiguous():
            return super().forward(input)
        output = super().forward(input.contiguous())
        return output.contiguous(memory_format=torch.channels_last) if output.dim() == 4 else output


def pooling(text: str) -> Pooling:
    """Read a pooling's spelling, such as ``max``, ``ensemble:0.1`` or ``ordinal:0.7,0.2,0.1``; `str` is the inverse.

    Raises:
        ValueError: if the spelling is none of the known ones, or a number is out of range.
        TypeError: if it is not a string.

    Example:
        >>> import empool
        >>> empool.pooling("ensemble:0.1")
        EnsembleMax(p=0.1)
    """
    if not isinstance(text, str):
        raise TypeError(f"pooling: expected a spelling, such as 'ensemble:0.1', got {type(text).__name__}")
    name, colon, numbers = text.strip().partition(":")
    spelling = next((known for known in SPELLINGS if known.partition(":")[0] == name), "")
    if not spelling or bool(colon) != (":" in spelling):
        raise ValueError(f"pooling: expected one of {', '.join(SPELLINGS)}, got {text!r}")
    try:
        values = [float(number) for number in numbers.split(",")] if colon else []
    except ValueError:
        raise ValueError(f"pooling: expected numbers as in {spelling!r}, got {text!r}") from None
    if name == Ordinal.name:
        return Ordinal(values)
    if len(values) != spelling.count(":"):
        raise ValueError(f"pooling: expected one number as in {spelling!r}, got {text!r}")
    return SPELLINGS[spelling](*values)


def layer(
    pooling: Pooling,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> nn.Module:
    """Return a layer of a pooling, such as `EnsembleMaxPool2d` for `EnsembleMax`.

    `Max` and `Average` become PyTorch's own layers; the average leaves padding out, like every pooling here.

    Args:
        pooling: which one.
        dims: number of spatial dimensions, 1 to 3.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.MaxPool2d` takes them.
    Raises:
        ValueError: if `dims` is not 1, 2 or 3, or an average is asked for with dilation.

    Example:
        >>> import empool
        >>> empool.layer(empool.EnsembleMax(0.1), 2, kernel_size=2)
        EnsembleMaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False, p=0.1)
    """
    if dims not in (1, 2, 3):
        raise ValueError(f"layer: expected dims to be 1, 2 or 3, got {dims}")
    if type(pooling) is Average:
        if dilation not in (1, (1,) * dims, [1] * dims):
            raise ValueError(f"layer: expected dilation 1 for average pooling, got {dilation}; use RankPool{dims}d")
        average = (nn.AvgPool1d, AvgPool2d, nn.AvgPool3d)[dims - 1]
        return average(kernel_size, stride, padding, ceil_mode=ceil_mode, count_include_pad=False)
    geometry = (kernel_size, stride, padding, dilation)
    if type(pooling) is Max:
        return (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1](*geometry, ceil_mode=ceil_mode)
    return _made("layer", pooling, dims, "", *geometry, ceil_mode=ceil_mode)


def adaptive_layer(pooling: Pooling, dims: int, output_size: Any) -> nn.Module:
    """Return a layer of a pooling with windows that adapt to the input's size.

    `Max` and `Average` become PyTorch's own layers.

    Args:
        pooling: which one.
        dims: number of spatial dimensions, 1 to 3.
        output_size: as `torch.nn.AdaptiveMaxPool2d` takes it; 1 pools whole images.
    Raises:
        ValueError: if `dims` is not 1, 2 or 3.

    Example:
        >>> import empool
        >>> empool.adaptive_layer(empool.EnsembleMax(0.1), 2, output_size=1)
        AdaptiveEnsembleMaxPool2d(output_size=1, p=0.1)
    """
    if dims not in (1, 2, 3):
        raise ValueError(f"adaptive_layer: expected dims to be 1, 2 or 3, got {dims}")
    if type(pooling) in (Max, Average):
        stem = "AdaptiveMaxPool" if type(pooling) is Max else "AdaptiveAvgPool"
        own: nn.Module = getattr(nn, f"{stem}{dims}d")(output_size)
        return own
    return _made("adaptive_layer", pooling, dims, "Adaptive", output_size)


def _made(function: str, pooling: Pooling, dims: int, prefix: str, *windows: Any, **options: Any) -> nn.Module:
    if type(pooling) in _LAYERS:
        stem, own = _LAYERS[type(pooling)], dataclasses.asdict(pooling)  # type: ignore[call-overload]
    elif isinstance(pooling, RankDistribution):
        stem, own = "RankPool", {"distribution": pooling}
    else:
        raise TypeError(f"{function}: expected an empool pooling, got {type(pooling).__name__}; see empool.pooling")
    made: nn.Module = getattr(modules, f"{prefix}{stem}{dims}d")(*windows, **options, **own)
    return made
