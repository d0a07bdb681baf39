"""What else is used in place of max-pooling: PyTorch's layers, and published methods as they are usually written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empool.bench import cases
from empool.bench.cases import Case

Pool = Callable[[Tensor], Tensor]


def soft_pool(input: Tensor, *, kernel_size: int, stride: int) -> Tensor:
    """Average with the softmax as weights (Stergiou 2021), by two average poolings of exponentials."""
    weight = input.exp()
    return F.avg_pool2d(weight * input, kernel_size, stride) / F.avg_pool2d(weight, kernel_size, stride)


def ordinal_by_unfold(input: Tensor, *, kernel_size: int, stride: int, weights: Tensor) -> Tensor:
    """Weigh the ranked activations of every window, by unfold, sort and a product."""
    windows = input.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride).flatten(4)  # (N, C, OH, OW, K)
    ranked = windows.topk(len(weights), dim=-1).values
    return ranked @ weights


class BlurPool(nn.Module):
    """Max-pooling of stride 1, then a binomial filter with the stride (Zhang 2019)."""

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filter", (row.outer(row) / 16).expand(channels, 1, 3, 3).contiguous())
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        largest = F.max_pool2d(F.pad(input, (0, 1, 0, 1), mode="replicate"), self.kernel_size, 1)
        weight: Tensor = self.get_buffer("filter")
        return F.conv2d(F.pad(largest, (1, 0, 1, 0), mode="replicate"), weight, None, self.stride, groups=input.size(1))


def _window(case: Case) -> dict[str, Any]:
    assert not case.window.padding, "the peers have no padding"
    return {"kernel_size": case.window.kernel_size, "stride": case.window.stride}


def _ordinal(case: Case) -> Pool:
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=getattr(torch, case.dtype))
    return functools.partial(ordinal_by_unfold, **_window(case), weights=weights)


def _lp(case: Case) -> Pool:
    return functools.partial(F.lp_pool2d, norm_type=2.0, **_window(case))


def _output(case: Case) -> tuple[int, int]:
    height, width = case.window.output(case.shape)[2:]
    return height, width


PEERS: dict[str, Callable[[Case], Pool]] = {
    "SoftPool in PyTorch": lambda case: functools.partial(soft_pool, **_window(case)),
    "ordinal by unfold": _ordinal,
    "nn.AdaptiveMaxPool2d": lambda case: nn.AdaptiveMaxPool2d(_output(case)),
    "nn.FractionalMaxPool2d": lambda case: nn.FractionalMaxPool2d(case.window.kernel_size, _output(case)),
    "BlurPool": lambda case: BlurPool(case.shape[1], **_window(case)),
    "F.lp_pool2d": _lp,
}
"""How each of `cases.PEERS` is made for a case."""

assert tuple(PEERS) == cases.PEERS
