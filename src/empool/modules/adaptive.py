"""The layers with `torch.nn.AdaptiveMaxPool2d`'s arguments."""

from __future__ import annotations

from torch import Generator

from empool._call import OutputSize, Seed, Tied
from empool.distributions import RankDistribution
from empool.modules._layer import AdaptivePool
from empool.modules._methods import EnsembleMaxed, MaxDropped, Number, Ranked, Softened, StochasticMaxed, Valued


class _AdaptiveEnsembleMaxPool(EnsembleMaxed, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, p: Number = 0.1, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)
        self.p = p


class AdaptiveEnsembleMaxPool2d(_AdaptiveEnsembleMaxPool, dims=2):
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


class AdaptiveEnsembleMaxPool1d(_AdaptiveEnsembleMaxPool, dims=1):
    """`EnsembleMaxPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveEnsembleMaxPool3d(_AdaptiveEnsembleMaxPool, dims=3):
    """`EnsembleMaxPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""


class _AdaptiveMaxPoolDropout(MaxDropped, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, p: Number = 0.2, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)
        self.p = p


class AdaptiveMaxPoolDropout2d(_AdaptiveMaxPoolDropout, dims=2):
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


class AdaptiveMaxPoolDropout1d(_AdaptiveMaxPoolDropout, dims=1):
    """`MaxPoolDropout1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveMaxPoolDropout3d(_AdaptiveMaxPoolDropout, dims=3):
    """`MaxPoolDropout3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""


class _AdaptiveStochasticMaxPool(StochasticMaxed, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, drop: Number = 0.5, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)
        self.drop = drop


class AdaptiveStochasticMaxPool2d(_AdaptiveStochasticMaxPool, dims=2):
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


class AdaptiveStochasticMaxPool1d(_AdaptiveStochasticMaxPool, dims=1):
    """`StochasticMaxPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveStochasticMaxPool3d(_AdaptiveStochasticMaxPool, dims=3):
    """`StochasticMaxPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""


class _AdaptiveStochasticPool(Valued, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, seed: Seed = None,
        generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)


class AdaptiveStochasticPool2d(_AdaptiveStochasticPool, dims=2):
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


class AdaptiveStochasticPool1d(_AdaptiveStochasticPool, dims=1):
    """`StochasticPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveStochasticPool3d(_AdaptiveStochasticPool, dims=3):
    """`StochasticPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""


class _AdaptiveSoftPool(Softened, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, beta: Number = 1.0, trainable: bool = False,
        seed: Seed = None, generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)
        self._set_beta(beta, trainable)


class AdaptiveSoftPool2d(_AdaptiveSoftPool, dims=2):
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


class AdaptiveSoftPool1d(_AdaptiveSoftPool, dims=1):
    """`SoftPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveSoftPool3d(_AdaptiveSoftPool, dims=3):
    """`SoftPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""


class _AdaptiveRankPool(Ranked, AdaptivePool):
    def __init__(
        self, output_size: OutputSize, return_indices: bool = False, *, distribution: RankDistribution,
        seed: Seed = None, generator: Generator | None = None, tied: Tied = None,
    ) -> None:  # fmt: skip
        super().__init__(output_size, return_indices, seed, generator, tied)
        self.distribution = distribution


class AdaptiveRankPool2d(_AdaptiveRankPool, dims=2):
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


class AdaptiveRankPool1d(_AdaptiveRankPool, dims=1):
    """`RankPool1d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool1d`."""


class AdaptiveRankPool3d(_AdaptiveRankPool, dims=3):
    """`RankPool3d` to a given output size, with the windows of `torch.nn.AdaptiveMaxPool3d`."""
