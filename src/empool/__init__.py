"""Ensemble and stochastic pooling for PyTorch."""

from empool import functional
from empool._kernels import kernels
from empool._version import __version__
from empool.distributions import (
    Average,
    EnsembleMax,
    Max,
    MaxDropout,
    Ordinal,
    Pooling,
    RankDistribution,
    Stochastic,
    StochasticMax,
)
from empool.modules import (
    EnsembleMaxPool1d,
    EnsembleMaxPool2d,
    EnsembleMaxPool3d,
    MaxPoolDropout1d,
    MaxPoolDropout2d,
    MaxPoolDropout3d,
    RankPool1d,
    RankPool2d,
    RankPool3d,
    StochasticMaxPool1d,
    StochasticMaxPool2d,
    StochasticMaxPool3d,
    StochasticPool1d,
    StochasticPool2d,
    StochasticPool3d,
)
from empool.pooling import layer, pooling

__all__ = [
    "Average",
    "EnsembleMax",
    "EnsembleMaxPool1d",
    "EnsembleMaxPool2d",
    "EnsembleMaxPool3d",
    "Max",
    "MaxDropout",
    "MaxPoolDropout1d",
    "MaxPoolDropout2d",
    "MaxPoolDropout3d",
    "Ordinal",
    "Pooling",
    "RankDistribution",
    "RankPool1d",
    "RankPool2d",
    "RankPool3d",
    "Stochastic",
    "StochasticMax",
    "StochasticMaxPool1d",
    "StochasticMaxPool2d",
    "StochasticMaxPool3d",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
    "__version__",
    "functional",
    "kernels",
    "layer",
    "pooling",
]
