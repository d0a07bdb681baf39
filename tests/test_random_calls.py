"""Random calls of every operator: the CPU's kernels against the reference, in types, layouts, windows and tables."""

from __future__ import annotations

import dataclasses
import math
import os
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import empool
from empool import _window, reference
from empool._window import Geometry
from tolerances import MEANS, assert_same_numbers

ops = torch.ops.empool
BLOCKS = 200 if os.environ.get("EMPOOL_HYPOTHESIS") == "search" else 10
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
EXACT = ("rank_draw", "value_draw", "drawn_scatter", "drawn_gather", "rank_mean")
"""What the kernels compute bit for bit; sums in other operators may be taken in another order."""


@dataclasses.dataclass
class Call:
    """Everything that the operators take, drawn at random."""

    geometry: Geometry
    input: Tensor
    seed: Tensor
    thresholds: Tensor
    weights: Tensor
    counts: tuple[int, ...]
    beta: Tensor | None
    tied: int
    first_image: int
    grad_output: Tensor

    def arguments(self) -> dict[str, tuple[Any, ...]]:
        """Return the arguments of every operator that has a kernel."""
        numbers = (self.tied, self.first_image)
        drawn = reference.rank_draw(self.input, self.seed, self.thresholds, self.counts, *self.geometry, *numbers)[1]
        mean = (self.input, self.weights, self.counts, *self.geometry)
        value = (self.input, self.beta, *self.geometry)
        windows = self.geometry[:5]
        return {
            "rank_draw": (self.input, self.seed, self.thresholds, self.counts, *self.geometry, *numbers),
            "value_draw": (self.input, self.seed, self.beta, *self.geometry, *numbers),
            "drawn_scatter": (self.grad_output, drawn, self.input.shape[2:], *windows),
            "drawn_gather": (self.input, drawn, *windows),
            "rank_mean": mean,
            "rank_mean_backward": (self.grad_output, *mean),
            "rank_mean_jvp": (self.input, *mean),
            "rank_mean_weight_grad": (self.grad_output, *mean),
            "value_mean": value,
            "value_mean_backward": (self.grad_output, *value),
            **({} if self.beta is None else {"value_mean_beta_grad": (self.grad_output, *value)}),
        }


def make(seed: int) -> Call:
    """Make a random call."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dims = rng.choice((1, 2, 2, 3))
    images, channels = rng.choice((0, 1, 1, 2, 3)), rng.choice((1, 2, 3, 7, 8, 9, 16, 17, 33, 40))
    spatial = [rng.randint(1, (60, 18, 7)[dims - 1]) for _ in range(dims)]
    if dims == 2 and rng.random() < 0.3:
        spatial[1] = rng.randint(19, 60)  # Rows of more than a vector's outputs.
    geometry = _adaptive(rng, spatial) if rng.random() < 0.35 else _regular(rng, spatial)
    counts = geometry.possible_counts(spatial)
    sets, most = rng.choice((1, channels)), max(counts)
    thresholds = torch.randint(2**32, (sets, len(counts), rng.randint(0, most)), generator=generator)
    never = torch.rand(thresholds.shape, generator=generator) < 0.2
    weights = torch.rand(sets, len(counts), rng.randint(1, most), generator=generator, dtype=torch.float64)
    if rng.random() < 0.3:
        weights = torch.zeros_like(weights)
        weights[..., 0] = 1
    elif rng.random() < 0.5:
        weights = (weights - 0.5) * (torch.rand(weights.shape, generator=generator) < 0.6)  # Negative and none.
    reached = torch.arange(weights.size(-1)) < torch.tensor(counts).unsqueeze(-1)
    dtype, seeds = rng.choice(DTYPES), rng.choice((1, max(images, 1)))
    output = (images, channels, *geometry.output_sizes(spatial))
    return Call(
        geometry,
        _laid_out(rng, _values(rng, (images, channels, *spatial), generator).to(dtype)),
        torch.randint(-(2**63), 2**63 - 1, (seeds,), generator=generator),
        torch.where(never, reference.NEVER, thresholds).sort(-1).values,
        torch.where(reached, weights, 0).to(rng.choice((torch.float64, torch.float32))),
        counts,
        rng.choice((None, torch.tensor([0.0]), torch.tensor([-2.0]), torch.randn(channels, generator=generator))),
        rng.choice((0, 0, 1, 2, 3)),
        rng.choice((0, 0, 5)),
        _laid_out(rng, torch.randn(output, generator=generator).to(dtype)),
    )


def _regular(rng: random.Random, spatial: list[int]) -> Geometry:
    kernel = [rng.choice((1, 2, 2, 3, 3, 4, 5)) for _ in spatial]
    if rng.random() < 0.7:
        kernel = [kernel[0]] * len(spatial)
    stride = kernel if rng.random() < 0.4 else [rng.randint(1, 3) for _ in spatial]
    padding = [rng.randint(0, k // 2) if rng.random() < 0.5 else 0 for k in kernel]
    dilation = [1] * len(spatial) if rng.random() < 0.75 else [rng.randint(1, 3) for _ in spatial]
    for dim, (k, p, d) in enumerate(zip(kernel, padding, dilation, strict=True)):
        spatial[dim] = max(spatial[dim], d * (k - 1) + 1 - 2 * p)
    return Geometry(kernel, stride, padding, dilation, [], rng.random() < 0.4)


def _adaptive(rng: random.Random, spatial: list[int]) -> Geometry:
    output = [rng.randint(1, min(size + 2, 9)) for size in spatial]  # More outputs than inputs, too.
    bounds = [
        [_window.adaptive_bounds(i, size, count) for i in range(count)]
        for size, count in zip(spatial, output, strict=True)
    ]
    kernel = [max(end - start for start, end in side) for side in bounds]
    ones = [1] * len(spatial)
    return Geometry(kernel, ones, [0] * len(spatial), ones, output, False)


def _values(rng: random.Random, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    normal, chance = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    kind = rng.choice(("normal", "ties", "zeros", "infinite", "nan", "negative", "constant"))
    if kind == "ties":
        return normal.round()
    if kind == "zeros":
        return torch.where(chance < 0.4, 0.0, torch.where(chance < 0.8, -0.0, normal))
    if kind == "infinite":
        return torch.where(chance < 0.1, math.inf, torch.where(chance < 0.2, -math.inf, normal))
    if kind == "nan":
        return torch.where(chance < 0.03, math.nan, normal)
    return {"normal": normal, "negative": -normal.abs(), "constant": torch.full(shape, 1.5)}[kind]


def _laid_out(rng: random.Random, input: Tensor) -> Tensor:
    layout = rng.choice(("contiguous", "contiguous", "channels last", "channels last", "gaps", "transposed", "offset"))
    if layout == "channels last":
        return _window.dense(input, True)
    if layout == "gaps":
        return torch.stack([input, input], -1)[..., 0]
    if layout == "transposed":
        return input.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "offset":
        return torch.cat([input.new_zeros(3), input.flatten()])[3:].view(input.shape)
    return input


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_random_call_gives_what_the_reference_gives(block: int) -> None:
    if empool.kernels()["rank_draw"]["cpu"].startswith("reference"):
        pytest.skip("there are no kernels to compare")
    for seed in range(20 * block, 20 * (block + 1)):
        call = make(seed)
        for name, arguments in call.arguments().items():
            what = f"make({seed}): {name} of {call.input.dtype} {tuple(call.input.shape)}, {call.geometry}"
            actual, expected = getattr(ops, name)(*arguments), getattr(reference, name)(*arguments)
            is_maximum = name == "rank_mean_backward" and reference.is_maximum(call.weights)
            if name in EXACT or is_maximum:
                assert_same_numbers(actual, expected, what)
                continue
            near = {**MEANS[expected.dtype], "atol": 20 * MEANS[call.input.dtype]["atol"]}  # Sums of several windows.
            if name == "rank_mean_weight_grad":  # One sum of all windows, of float32 products at least.
                near = {"rtol": 1e-4, "atol": 1e-5 * max(call.grad_output.abs().sum().item(), 1)}
            if name == "value_mean_beta_grad":
                sizes = reference.value_mean_beta_grad(call.grad_output.abs(), *arguments[1:])
                near = {"rtol": 1e-4, "atol": 1e-5 * max(*sizes.nan_to_num(1, 1, 1).flatten().tolist(), 1)}
            torch.testing.assert_close(
                actual, expected, **near, equal_nan=True, msg=lambda text, what=what: f"{what}\n{text}"
            )


@pytest.mark.parametrize("values", [(0.0, -0.0, 1.0), (0.0, -0.0, 0.0, 1.0, 0.0), (-0.0, 0.0, -1.0, 1.0, 0.0)])
def test_a_runner_up_among_zeros_is_the_first_of_them(values: tuple[float, ...]) -> None:
    size = len(values)
    input = _window.dense(torch.tensor(values * 6).expand(2, 70, 6 * size), True)
    thresholds, windows = torch.full((1, 1, 1), 2**31), ([size], [size], [0], [1], [], False, 0)
    call = (input, torch.tensor(1), thresholds, (size,), *windows)
    assert_same_numbers(ops.rank_draw(*call), reference.rank_draw(*call))
