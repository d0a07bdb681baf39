"""The memory of a GPU that a training step of a whole network needs, and its time, with each pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import empool
from empool.bench.cases import LAYOUTS, Case
from empool.bench.timing import alternate, synchronised_clock

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the convolutions; 0 is a pooling."""


def stack(case: Case, pooling: empool.Pooling) -> nn.Sequential:
    """Make VGG-16 up to its last pooling: 3x3 convolutions, ReLU in place, and poolings."""
    layers: list[nn.Module] = []
    channels = case.shape[1]
    for width in VGG16:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(empool.layer(pooling, 2, case.window.kernel_size, case.window.stride, case.window.padding))
    return nn.Sequential(*layers)


def measure(case: Case, seconds: float) -> list[dict[str, Any]]:
    """Measure a training step with every pooling of the case.

    Returns:
        One record a pooling: "seconds" and "ratio" as quartiles, "peak_bytes" at any time of the step, "held_bytes"
        between forward and backward pass; both beyond what parameters, their gradients and the input take.
    """
    layout = torch.channels_last if case.layout == LAYOUTS[1] else torch.contiguous_format
    dtype = getattr(torch, case.dtype)
    input = torch.randn(case.shape, device="cuda").to(dtype).to(memory_format=layout)

    def step(network: nn.Sequential) -> tuple[int, int]:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = network(input).sum()
        held = torch.cuda.memory_allocated() - before
        loss.backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, held

    networks = {
        name: stack(case, empool.pooling(name)).to("cuda", dtype).to(memory_format=layout)  # type: ignore[call-overload]
        for name in case.contestants
    }
    memory = {}
    for name, network in networks.items():
        step(network)
        memory[name] = step(network)
    steps = {name: lambda _, network=network: network(input).sum().backward() for name, network in networks.items()}
    timings = alternate(steps, synchronised_clock, seconds)
    return [
        {"contestant": name, **timings[name].as_json(), "peak_bytes": memory[name][0], "held_bytes": memory[name][1]}
        for name in case.contestants
    ]
