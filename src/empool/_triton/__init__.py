"""Triton kernels for CUDA, behind the operators of `empool._ops`."""

from empool._triton._operators import (
    KERNELS,
    drawn_gather,
    drawn_scatter,
    is_by_table,
    rank_draw,
    rank_mean,
    rank_mean_backward,
    value_draw,
)

__all__ = [
    "KERNELS",
    "drawn_gather",
    "drawn_scatter",
    "is_by_table",
    "rank_draw",
    "rank_mean",
    "rank_mean_backward",
    "value_draw",
]
