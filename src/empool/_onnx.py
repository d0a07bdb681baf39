"""What the ONNX exporter puts for a draw: standard operators, whose random numbers are ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from empool import _window, reference
from empool._window import Geometry


def rank_draw(input: Tensor, seed: Tensor, thresholds: Tensor, counts: Sequence[int], *rest: Any) -> tuple[Tensor, ...]:
    """Draw one rank for every window by a number of the runtime."""
    windows, valid = _window.windows(input.float(), Geometry(*rest[:6]))
    count = valid.sum(-1)
    ranked, order = windows.topk(windows.size(-1), dim=-1)
    if thresholds.size(-1) == 0:
        return ranked[..., 0].to(input.dtype), order[..., 0].to(reference.drawn_dtype(windows.size(-1)))
    passed = reference.rows(thresholds, counts, count).float() * 2.0**-32
    rank = (_number(windows, rest).unsqueeze(-1) >= passed).to(torch.int64).sum(-1)
    return _drawn(input, ranked, order, rank, rank >= count)


def value_draw(input: Tensor, seed: Tensor, beta: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    """Draw one activation of every window by a number of the runtime."""
    windows, valid = _window.windows(input.float(), Geometry(*rest[:6]), fill=0.0)
    if beta is None:
        weights = torch.where(valid, windows, 0).relu()
    else:
        score = torch.where(valid, beta.float().reshape(-1, *[1] * (windows.dim() - 2)) * windows, float("-inf"))
        weights = torch.where(valid, (score - score.amax(-1, keepdim=True)).exp(), 0)
    running = weights.cumsum(-1)
    total = running[..., -1:]
    place = (running <= _number(windows, rest).unsqueeze(-1) * total).to(torch.int64).sum(-1)
    order = torch.arange(windows.size(-1), device=input.device).expand(windows.shape)
    return _drawn(input, windows, order, place.clamp(max=windows.size(-1) - 1), total.squeeze(-1) == 0)


def _number(windows: Tensor, rest: Sequence[Any]) -> Tensor:
    """Return a uniform number for every window, shared by those that are tied."""
    like, tied = windows[..., 0], rest[6]
    if tied & 1:
        like = like[:, :1]
    if tied & 2:
        like = like.flatten(2)[..., :1].reshape(*like.shape[:2], *[1] * (like.dim() - 2))
    return torch.rand_like(like).expand(windows.shape[:-1])


def _drawn(input: Tensor, values: Tensor, order: Tensor, at: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    at = at.clamp(max=values.size(-1) - 1).unsqueeze(-1)
    dtype = reference.drawn_dtype(values.size(-1))
    output = torch.where(zero, 0, values.gather(-1, at).squeeze(-1))
    drawn = torch.where(zero, reference.zero_drawn(dtype), order.gather(-1, at).squeeze(-1))
    return output.to(input.dtype), drawn.to(dtype)
