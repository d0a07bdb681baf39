"""What a set of calls gives, as hashes: `python tests/golden.py > tests/golden.json` writes down what holds today."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import empool
from tolerances import plain

DISTRIBUTIONS: dict[str, empool.RankDistribution] = {
    "max": empool.Max(),
    "average": empool.Average(),
    "ensemble": empool.EnsembleMax(0.3),
    "ensemble, never": empool.EnsembleMax(0.0),
    "ensemble, always": empool.EnsembleMax(1.0),
    "max-dropout": empool.MaxDropout(0.4),
    "max-dropout, always": empool.MaxDropout(1.0),
    "stochastic-max": empool.StochasticMax(0.5),
    "ordinal": empool.Ordinal((0.5, 0.0, 0.3, 0.2)),
}
GEOMETRIES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "1d 3/2 padded": ((2, 5, 19), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "2x2/2": ((2, 5, 16, 22), {"kernel_size": 2}),
    "3x3/2 padded": ((2, 9, 13, 18), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "3x3/1 ceil": ((2, 4, 9, 11), {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True}),
    "5x5/3": ((2, 3, 17, 20), {"kernel_size": 5, "stride": 3, "padding": 2}),
    "dilated": ((2, 3, 12, 14), {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 3)}),
    "17x16": ((1, 2, 20, 21), {"kernel_size": (17, 16), "stride": 2, "padding": (2, 1)}),
    "3d 2x2x2/2": ((2, 3, 6, 6, 8), {"kernel_size": 2, "stride": 2, "padding": 1}),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
SEEDS = (0, 5, -1, 2**63 + 12345)


def values(shape: tuple[int, ...], salt: int, dtype: torch.dtype) -> Tensor:
    """Return numbers in [-2, 6) with ties, by integer arithmetic that no generator's version changes."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) + salt
    mixed = (index * 2654435761 + (index >> 3) * 40503) % 2**20
    return (((mixed >> 7) % 1024).to(torch.float64) / 128 - 2).to(dtype).reshape(shape)


def digest(*tensors: Tensor) -> str:
    """Return a hash of types, shapes and bits; every NaN is the same."""
    found = hashlib.sha256()
    for tensor in tensors:
        tensor = plain(tensor.detach()).contiguous()
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def calls() -> Iterator[tuple[str, str]]:
    """Yield every call's name and the hash of output, indices and gradient."""
    turn = itertools.cycle(itertools.product(SEEDS, DTYPES))
    for (place, (shape, geometry)), name, layout in itertools.product(
        GEOMETRIES.items(), [*DISTRIBUTIONS, "stochastic"], ("contiguous", "channels last")
    ):
        seed, dtype = next(turn)
        dims, method = len(shape) - 2, "stochastic_pool" if name == "stochastic" else "rank_pool"
        call = getattr(empool.functional, f"{method}{dims}d")
        own = {} if name == "stochastic" else {"distribution": DISTRIBUTIONS[name]}
        input = values(shape, len(place) + len(name), dtype)
        if layout == "channels last":
            input = input.movedim(1, -1).contiguous().movedim(-1, 1)
        # The expectation of stochastic pooling is a quotient of sums, whose order no definition fixes.
        for training in (True, False) if own else (True,):
            given = input.requires_grad_()
            output, indices = call(given, **geometry, **own, return_indices=True, training=training, seed=seed)
            (gradient,) = torch.autograd.grad(output, given, values(tuple(output.shape), 7, dtype))
            phase = "training" if training else "testing"
            yield f"{place}, {name}, {layout}, {dtype}, {phase}", digest(output, indices, gradient)


if __name__ == "__main__":
    print(json.dumps(dict(calls()), indent=1))
