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
    Max,
    MaxDropout,
    Ordinal,
    Pooling,
    RankDistribution,
    Stochastic,
    StochasticMax,
)
from empool.ensemble import monte_carlo, set_p
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
from empool.recalibrate import recalibrate_

if TYPE_CHECKING:
    from empool import models
else:

    def __getattr__(name: str) -> ModuleType:
        if name == "models":  # Whoever wants a pooling layer alone does not wait for networks.
            return importlib.import_module("empool.models")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
