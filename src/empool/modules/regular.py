"""The layers with `torch.nn.MaxPool2d`'s arguments; no buffers, and no parameters but a trainable beta."""

from __future__ import annotations

from torch import Generator

from empool._call import Seed, Size, Tied
from empool.distributions import RankDistribution
from empool.modules._layer import WindowPool
from empool.modules._methods import EnsembleMaxed, MaxDropped, Number, Ranked, Softened, StochasticMaxed, Valued


class _EnsembleMaxPool(EnsembleMaxed, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, p: Number = 0.1, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
        self.p = p


class EnsembleMaxPool2d(_EnsembleMaxPool, dims=2):
    """Ensemble max-pooling: outputs the second largest activation with probability p in training.

    In eval mode the output is the exact expectation, ``(1 - p) * largest + p * second``. With p = 0 the layer is
    `torch.nn.MaxPool2d`, bit for bit.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        p: probability of dropping the largest activation, in [0, 1]; several are one for each channel.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        ValueError: if p is outside [0, 1].

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.EnsembleMaxPool2d(3, stride=2, padding=1, p=0.4)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Zhang and Wu, J. USTC 47(10), 2017.
    """


class EnsembleMaxPool1d(_EnsembleMaxPool, dims=1):
    """`EnsembleMaxPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class EnsembleMaxPool3d(_EnsembleMaxPool, dims=3):
    """`EnsembleMaxPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""


class _MaxPoolDropout(MaxDropped, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, p: Number = 0.2, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
        self.p = p


class MaxPoolDropout2d(_MaxPoolDropout, dims=2):
    """Max-pooling dropout: drops each activation with probability p in training, then takes the maximum.

    Where all activations of a window are dropped, the output is 0. In eval mode it is the exact expectation. Meant for
    non-negative activations.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        p: probability of dropping an activation, in [0, 1]; several are one for each channel.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        ValueError: if p is outside [0, 1].

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.MaxPoolDropout2d(3, stride=2, padding=1, p=0.4)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Wu and Gu, arXiv 1512.01400, 2015.
    """


class MaxPoolDropout1d(_MaxPoolDropout, dims=1):
    """`MaxPoolDropout2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class MaxPoolDropout3d(_MaxPoolDropout, dims=3):
    """`MaxPoolDropout2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""


class _StochasticMaxPool(StochasticMaxed, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, drop: Number = 0.5, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
        self.drop = drop


class StochasticMaxPool2d(_StochasticMaxPool, dims=2):
    """Stochastic max-pooling: drops a fixed share of each window in training, then takes the maximum.

    Of n activations floor(drop * n) are dropped. In eval mode the output is the exact expectation.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        drop: share of the activations to drop, in [0, 1); several are one for each channel.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        ValueError: if drop is outside [0, 1).

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.StochasticMaxPool2d(3, stride=2, padding=1, drop=0.5)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Huang et al., CVPR Workshops, 2015.
    """


class StochasticMaxPool1d(_StochasticMaxPool, dims=1):
    """`StochasticMaxPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class StochasticMaxPool3d(_StochasticMaxPool, dims=3):
    """`StochasticMaxPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""


class _StochasticPool(Valued, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)


class StochasticPool2d(_StochasticPool, dims=2):
    """Stochastic pooling: samples an activation in proportion to its positive part in training.

    In eval mode the output is the exact expectation, the sum of squares over the sum. Where no activation is positive
    it is 0.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.StochasticPool2d(3, stride=2, padding=1)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Zeiler and Fergus, arXiv 1301.3557, 2013.
    """


class StochasticPool1d(_StochasticPool, dims=1):
    """`StochasticPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class StochasticPool3d(_StochasticPool, dims=3):
    """`StochasticPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""


class _SoftPool(Softened, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, beta: Number = 1.0, trainable: bool = False,
        seed: Seed = None, generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
        self._set_beta(beta, trainable)


class SoftPool2d(_SoftPool, dims=2):
    """Soft pooling: samples an activation by the softmax of beta times the activations in training.

    In eval mode the output is the exact expectation, which is SoftPool. Activations may have any sign.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        beta: 0 is average pooling, large values are max-pooling; several are one for each channel.
        trainable: make beta a parameter; a beta that is an `nn.Parameter` stays one. In training it gets the gradient
            of the expectation.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        ValueError: if beta is not finite.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.SoftPool2d(3, stride=2, padding=1, beta=1.0)
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])

    Source: Stergiou et al., ICCV 2021, arXiv 2101.00440.
    """


class SoftPool1d(_SoftPool, dims=1):
    """`SoftPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class SoftPool3d(_SoftPool, dims=3):
    """`SoftPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""


class _RankPool(Ranked, WindowPool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False, *, distribution: RankDistribution, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode, seed, generator, tied)
        self.distribution = distribution


class RankPool2d(_RankPool, dims=2):
    """Pooling by any rank distribution: samples a rank in training, and outputs that activation.

    In eval mode the output is the exact expectation.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: of the window; by default `kernel_size`.
        padding: on each side; padding is never output.
        dilation: distance between the activations of a window.
        return_indices: also return the flat index of each output, for `torch.nn.MaxUnpool2d`; where no single
            activation is output, as in eval mode, that of the maximum.
        ceil_mode: round the output size up instead of down.
        distribution: probability of each rank, such as `empool.Ordinal`, `empool.TopMean` or one of your own.
        seed: 64-bit seed that repeats the samples; by default each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: outputs that share a random number: "channel" (all channels at a position), "position" (all positions
            of a channel) or "image"; by default none do.

    Raises:
        TypeError: if `distribution` is not an `empool.RankDistribution`.

    Shape:
        - Input: ``(N, C, H, W)`` or ``(C, H, W)``, any floating dtype and memory format.
        - Output: ``(N, C, OH, OW)`` or ``(C, OH, OW)``, with the OH and OW of `torch.nn.MaxPool2d`.

    Example:
        >>> pool = empool.RankPool2d(3, stride=2, padding=1, distribution=empool.Ordinal((0.6, 0.3, 0.1)))
        >>> pool(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 16, 16])
    """


class RankPool1d(_RankPool, dims=1):
    """`RankPool2d` in 1d, of inputs ``(N, C, L)`` or ``(C, L)``."""


class RankPool3d(_RankPool, dims=3):
    """`RankPool2d` in 3d, of inputs ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""
