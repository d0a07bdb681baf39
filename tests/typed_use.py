"""A program that uses the public interface, for mypy alone: right use needs no cast, and each wrong one is an error.

`make check` reads it as strictly as the package. An error that is no longer found makes its comment an unused one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import empool
from empool import functional as EF

image = torch.zeros(1, 3, 8, 8)


def right() -> None:
    pool = empool.EnsembleMaxPool2d(3, stride=2, padding=1, p=0.1)
    ranks = empool.RankPool2d(2, distribution=empool.Ordinal((0.7, 0.3)))
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), pool, ranks)
    pooling: empool.Pooling = empool.pooling("ensemble:0.1")
    names: list[str] = [name for name, old, new in empool.convert_(net, pooling, strided_convs=True)]
    names = empool.set_p(net, 0.2)
    output: Tensor = EF.ensemble_max_pool2d(image, (2, 2), p=0.3, seed=1)
    output = EF.ensemble_max_pool2d(image, kernel_size=2, stride=2, p=torch.rand(3), tied="channel")
    pair: tuple[Tensor, Tensor] = EF.ensemble_max_pool2d(image, 2, return_indices=True, generator=torch.Generator())
    output = EF.adaptive_max_pool_dropout2d(image, (4, None), p=0.2)
    output = EF.soft_pool2d(image, 2, beta=2.0)
    pool.p = [0.1, 0.2, 0.3]
    p: float = empool.EnsembleMaxPool2d(2).p
    learned: nn.Module = empool.LearnedRankPool2d(3, ranks=4, channels=3, start=empool.TopMean(2), sample=True)
    entropy: Tensor = empool.monte_carlo(net, torch.zeros(1, 3, 32, 32), samples=2).entropy
    model: nn.Module = empool.models.create("cnn", num_classes=10, pooling=empool.Max())
    kernels: dict[str, dict[str, str]] = empool.kernels()


def wrong() -> None:
    empool.EnsembleMaxPool2d("2")  # type: ignore[arg-type]
    empool.EnsembleMax(p="0.1")  # type: ignore[arg-type]
    empool.models.create("cnn", num_classes="10")  # type: ignore[arg-type]
    empool.ensemble_pool2d  # type: ignore[attr-defined]
    EF.ensemble_max_pool2d(image, 2, pp=3)  # type: ignore[call-overload]
    EF.stochastic_pool2d(image, 2, p=0.3)  # type: ignore[call-overload]
    EF.ensemble_max_pool2d(image, 2, tied="row")  # type: ignore[call-overload]
    EF.rank_pool2d(image, 2)  # type: ignore[call-overload]
    EF.soft_pool2d(image, 2, return_indices=True, bet=1.0)  # type: ignore[call-overload]
    text: str = EF.max_pool_dropout2d(image, 2)  # type: ignore[assignment]
    one: Tensor = EF.max_pool_dropout2d(image, 2, return_indices=True)  # type: ignore[assignment]
