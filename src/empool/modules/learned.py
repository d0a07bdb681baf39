"""The layers whose weights of ranks are learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from empool import functional
from empool._call import Seed, Size, Tied, distribution_argument
from empool._tables import Learned
from empool.distributions import Max, RankDistribution
from empool.modules._layer import WindowPool

LEAST = 1e-4
"""The probability that a learned rank starts from at least."""


class _LearnedRankPool(WindowPool):
    _functions = functional._rank_pool
    _own = ("ranks", "channels", "sample")
    _start: RankDistribution

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, ranks: int | None = None, channels: int | None = None,
        start: RankDistribution | None = None, sample: bool = False, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
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

    def _is_sampling(self) -> bool:
        return self.training and self.sample

    def _arguments(self, traced: bool) -> dict[str, Any]:
        return {"distribution": Learned(self.logits)}


class LearnedRankPool2d(_LearnedRankPool, dims=2):
    """Pooling by learned weights of ranks, the softmax of trainable logits: ordered weighted averaging.

    The output is the expectation in training and in eval mode. With ``sample=True`` training samples a rank, and the
    logits get the gradient of the expectation. A window with fewer activations than ranks renormalises its weights.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, that of the maximum.
        ceil_mode: round the output size up instead of down.
        ranks: number of ranks with a weight; by default all of the window.
        channels: number of channels, for weights of their own; by default all channels share one set.
        start: distribution to start from, by default max-pooling.
        sample: sample in training.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        ValueError: if `ranks` or `channels` is less than 1, or `ranks` more than the activations of a window.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.
        - `logits`, the parameter: ``(1, ranks)`` or ``(channels, ranks)``.

    Example:
        >>> pool = empool.LearnedRankPool2d(3, stride=2, padding=1)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Forcén et al., Neurocomputing 411, 2020.
    """


class LearnedRankPool1d(_LearnedRankPool, dims=1):
    """`LearnedRankPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class LearnedRankPool3d(_LearnedRankPool, dims=3):
    """`LearnedRankPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""
