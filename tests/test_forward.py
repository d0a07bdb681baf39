"""Pooling functions found in a forward: however they are spelled, and no layers taken for them."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from empool._forward import max_pooling_calls


def pool_of_a_library(input):
    return torch.max_pool2d(input, 2)


class Calls(nn.Module):
    """Takes the forward of one of the functions below."""

    def __init__(self, forward):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.max_pool2d = nn.MaxPool2d(2)
        self.function = functools.partial(F.max_pool3d, kernel_size=2)
        type(self).forward = forward

    def method(self, input):
        return F.max_pool1d(input, 2)

    @staticmethod
    def static(input):
        return F.adaptive_max_pool2d(input, 2)


def direct(self, input):
    return F.max_pool2d(input, 2)


def dotted(self, input):
    return torch.nn.functional.max_pool2d(input, 2)


def imported(self, input):
    from torch.nn.functional import max_pool2d as pool

    return pool(input, 2)


def aliased(self, input):
    import torch.nn.functional as functions

    return functions.max_pool2d(input, 2)


def nested(self, input):
    return [self.method(part) for part in input] + (lambda part: self.static(part))(input)


def through_a_function(self, input):
    return pool_of_a_library(input)


def through_an_attribute(self, input):
    return self.function(input)


@torch.no_grad()
def decorated(self, input):
    return F.max_pool2d(input, 2)


def with_layers_only(self, input):
    return self.pool(self.max_pool2d(F.avg_pool2d(input, 2))).max()


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (direct, {"max_pool2d"}),
        (dotted, {"max_pool2d"}),
        (imported, {"max_pool2d"}),
        (aliased, {"max_pool2d"}),
        (nested, {"max_pool1d", "adaptive_max_pool2d"}),
        (through_a_function, {"max_pool2d"}),
        (through_an_attribute, {"max_pool3d"}),
        (decorated, {"max_pool2d"}),
        (with_layers_only, set()),
    ],
)
def test_finds_functional_calls(forward, found):
    assert set(max_pooling_calls(Calls(forward))) == found


def test_finds_functional_calls_of_a_base_class():
    class Base(nn.Module):
        def forward(self, input):
            return F.max_pool2d(input, 2)

    class Heir(Base):
        def forward(self, input):
            return super().forward(input)

    class Other(Base):
        def forward(self, input):
            return input

    assert max_pooling_calls(Heir()) == ["max_pool2d"]
    assert max_pooling_calls(Other()) == []


def test_finds_functional_calls_of_a_traced_network():
    assert max_pooling_calls(torch.fx.symbolic_trace(Calls(direct))) == ["max_pool2d"]


class _Lazy:
    """What says nothing before its time, as a context's proxy does."""

    def __getattr__(self, name):
        raise RuntimeError("not ready")


lazy = _Lazy()


def test_no_code_of_what_a_forward_names_is_run():
    class Waits(nn.Module):
        def forward(self, input):
            if self.training:
                lazy.start()
            return F.max_pool2d(input, 2)

    assert max_pooling_calls(Waits()) == ["max_pool2d"]
