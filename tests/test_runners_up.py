"""The count of second largest activations in results/, on windows that can be read at a glance."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from empool import models

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "results" / "runners_up.py"))
Layer = SCRIPT["Layer"]


def test_windows_are_counted_as_they_are():
    layer = Layer(nn.MaxPool2d(2))
    rows = [[4.0, 2.0, 0.0, 0.0, 0.0, 8.0], [1.0, 0.0, 0.0, 0.0, 6.0, 0.0]]
    layer(nn.Identity(), (torch.tensor([[rows]]),))
    # The second window is all 0. The seconds are 2, beside 4, and 6, diagonal to 8.
    assert layer.found() == {
        "windows above 0": pytest.approx(2 / 3),
        "of them with a second above 0": 1.0,
        "mean of second / largest": pytest.approx((2 / 4 + 6 / 8) / 2),
        "pixels apart": {"1,0": 0.5, "1,1": 0.5},
    }


def test_large_windows_have_their_offsets_told_apart():
    layer = Layer(nn.MaxPool2d(6))
    image = torch.zeros(1, 1, 6, 12)
    image[0, 0, 0, 0], image[0, 0, 5, 4] = 2.0, 1.0
    image[0, 0, 0, 6], image[0, 0, 5, 11] = 2.0, 1.0
    layer(nn.Identity(), (image,))
    assert layer.found()["pixels apart"] == {"5,4": 0.5, "5,5": 0.5}


@pytest.mark.parametrize("spelling", ["max", "average", "ensemble:0.1", "stochastic", "stochastic-max:0.5"])
def test_every_pooling_of_a_network_is_found(spelling):
    network = models.create("cnn", num_classes=3, pooling=models.read_pooling(spelling), in_channels=1)
    assert sum(isinstance(module, SCRIPT["POOLS"]) for module in network.modules()) == 3


def test_padding_is_no_activation():
    layer = Layer(nn.MaxPool2d(3, stride=2, padding=1))
    layer(nn.Identity(), (torch.tensor([[[[5.0, -1.0], [-2.0, -3.0]]]]),))
    assert layer.found()["of them with a second above 0"] == 0.0
