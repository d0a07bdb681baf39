"""Triton kernels for CUDA, behind the operators of `empool._ops`."""

from empool._triton._operators import (
    KERNELS,
    drawn_gather,
    drawn_scatter,
    rank_draw,
    rank_mean,
    rank_mean_backward,
    rank_mean_weight_grad,
    value_draw,
    value_mean,
    value_mean_backward,
    value_mean_beta_grad,
)

__all__ = [
    "KERNELS",
    "drawn_gather",
    "drawn_scatter",
    "rank_draw",
    "rank_mean",
    "rank_mean_backward",
    "rank_mean_weight_grad",
    "value_draw",
    "value_mean",
    "value_mean_backward",
    "value_mean_beta_grad",
]
