"""Triton kernels for CUDA, behind the operators of `empool._ops`."""

from empool._triton._operators import (
    drawn_gather,
    drawn_scatter,
    rank_draw,
    rank_mean,
    rank_mean_backward,
    value_draw,
)

__all__ = ["drawn_gather", "drawn_scatter", "rank_draw", "rank_mean", "rank_mean_backward", "value_draw"]
