"""Ensemble and stochastic pooling for PyTorch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from empool import functional
from empool._kernels import kernels
from empool._version import __version__
from empool.convert import convert_
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
from empool.ensemble import monte_carlo, set_p
from empool.modules import (
    AdaptiveEnsembleMaxPool1d,
    AdaptiveEnsembleMaxPool2d,
    AdaptiveEnsembleMaxPool3d,
    AdaptiveMaxPoolDropout1d,
    AdaptiveMaxPoolDropout2d,
    AdaptiveMaxPoolDropout3d,
    AdaptiveRankPool1d,
    AdaptiveRankPool2d,
    AdaptiveRankPool3d,
    AdaptiveSoftPool1d,
    AdaptiveSoftPool2d,
    AdaptiveSoftPool3d,
    AdaptiveStochasticMaxPool1d,
    AdaptiveStochasticMaxPool2d,
    AdaptiveStochasticMaxPool3d,
    AdaptiveStochasticPool1d,
    AdaptiveStochasticPool2d,
    AdaptiveStochasticPool3d,
    EnsembleMaxPool1d,
    EnsembleMaxPool2d,
    EnsembleMaxPool3d,
    LearnedRankPool1d,
    LearnedRankPool2d,
    LearnedRankPool3d,
    MaxPoolDropout1d,
    MaxPoolDropout2d,
    MaxPoolDropout3d,
    RankPool1d,
    RankPool2d,
    RankPool3d,
    SoftPool1d,
    SoftPool2d,
    SoftPool3d,
    StochasticMaxPool1d,
    StochasticMaxPool2d,
    StochasticMaxPool3d,
    StochasticPool1d,
    StochasticPool2d,
    StochasticPool3d,
)
from empool.pooling import adaptive_layer, layer, pooling
from empool.recalibrate import recalibrate_

if TYPE_CHECKING:
    from empool import models
else:

    def __getattr__(name: str) -> ModuleType:
        if name == "models":  # Whoever wants a pooling layer alone does not wait for networks.
            return importlib.import_module("empool.models")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AdaptiveEnsembleMaxPool1d",
    "AdaptiveEnsembleMaxPool2d",
    "AdaptiveEnsembleMaxPool3d",
    "AdaptiveMaxPoolDropout1d",
    "AdaptiveMaxPoolDropout2d",
    "AdaptiveMaxPoolDropout3d",
    "AdaptiveRankPool1d",
    "AdaptiveRankPool2d",
    "AdaptiveRankPool3d",
    "AdaptiveSoftPool1d",
    "AdaptiveSoftPool2d",
    "AdaptiveSoftPool3d",
    "AdaptiveStochasticMaxPool1d",
    "AdaptiveStochasticMaxPool2d",
    "AdaptiveStochasticMaxPool3d",
    "AdaptiveStochasticPool1d",
    "AdaptiveStochasticPool2d",
    "AdaptiveStochasticPool3d",
    "Average",
    "EnsembleMax",
    "EnsembleMaxPool1d",
    "EnsembleMaxPool2d",
    "EnsembleMaxPool3d",
    "Geometric",
    "LearnedRankPool1d",
    "LearnedRankPool2d",
    "LearnedRankPool3d",
    "Max",
    "MaxDropout",
    "MaxPoolDropout1d",
    "MaxPoolDropout2d",
    "MaxPoolDropout3d",
    "Mixed",
    "Ordinal",
    "Pooling",
    "RankDistribution",
    "RankPool1d",
    "RankPool2d",
    "RankPool3d",
    "Soft",
    "SoftPool1d",
    "SoftPool2d",
    "SoftPool3d",
    "Stochastic",
    "StochasticMax",
    "StochasticMaxPool1d",
    "StochasticMaxPool2d",
    "StochasticMaxPool3d",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
    "TopMean",
    "__version__",
    "adaptive_layer",
    "convert_",
    "functional",
    "kernels",
    "layer",
    "models",
    "monte_carlo",
    "pooling",
    "recalibrate_",
    "set_p",
]
