"""Small tables of numbers on a device, uploaded without a host synchronisation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

_uploaded: dict[tuple[Sequence[float], torch.dtype, torch.device], tuple[Tensor, Tensor, torch.cuda.Event | None]] = {}
"""Tables by contents: the host's copy, the device's, and the event after which the latter can be read."""


def table(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the values as a tensor on the device."""
    key = (tuple(values), dtype, device)
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if key in _uploaded:
        _, result, ready = _uploaded[key]
        if ready is not None and not capturing and not ready.query():
            torch.cuda.current_stream(device).wait_event(ready)  # Uploaded on another stream, just now.
        return result
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    result = host.to(device, non_blocking=True)
    ready = None
    if capturing:
        # A graph uploads its own copy at every replay, from memory on the host that must stay.
        _kept.append(host)
        return result
    if device.type == "cuda":
        ready = torch.cuda.current_stream(device).record_event()
    _uploaded[key] = (host, result, ready)
    return result


_kept: list[Tensor] = []
"""The host's copies that captured graphs read."""


def row_of_count(counts: Sequence[int], volume: int, device: torch.device) -> Tensor:
    """Return the table row for every number of valid activations, 0 (any row) to `volume`: int32."""
    rows = [min(bisect_left(counts, count), len(counts) - 1) for count in range(volume + 1)]
    return table(rows, torch.int32, device)
