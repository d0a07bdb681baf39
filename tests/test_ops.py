"""The operators as PyTorch sees them: schema, fakes, derivatives, dispatch."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cases import ADAPTIVE, DTYPES, GEOMETRIES, Case, calls
from empool import _ops
from tolerances import strides

ops = torch.ops.empool
LAYOUTS = tuple(case for case in GEOMETRIES + ADAPTIVE if case.values == "normal")
"""Fakes and schemas do not depend on values."""


TRACED = (
    "1d 2/2",
    "1d channels last",
    "2x2/2",
    "3x3/2 padded",
    "asymmetric",
    "dilated, padded",
    "wider than the image",
    "stride past the end",
    "ceil 3x3/2",
    "ceil, left out",
    "ceil, dilated",
    "ceil, dilated, channels last",
    "padding only",
    "256 positions",
    "3d asymmetric",
    "3d channels last",
    "no images",
    "no images, channels last",
    "one channel, channels last",
    "one pixel",
    "3x3/2 padded, channels last",
    "3x3/2 padded, permuted",
    "3x3/2 padded, expanded images",
    "3x3/2 padded, strided",
    "2x2/2, offset",
    "adaptive 1d 7 of 3",
    "adaptive 3x2, channels last",
)
"""The cases that differ for a tracer. Compiling takes long: each operator is compiled on every fourth of them."""


@pytest.mark.parametrize("name", TRACED)
def test_opcheck(name: str) -> None:
    # One call of each, by turns one of its kinds.
    turn, (case,) = TRACED.index(name), [case for case in LAYOUTS if case.name == name]
    every = calls(case, torch.float32, ("ensemble",))
    for index, operator in enumerate(_ops.SCHEMAS):
        each = [args for called, _, args in every if called == operator]
        args = each[turn % len(each)]
        # opcheck copies its arguments, which an overlapping one cannot be.
        apart = case.layout.startswith("expanded")
        given = [
            (arg.contiguous() if apart else arg).detach().requires_grad_(arg.dtype.is_floating_point)
            if isinstance(arg, torch.Tensor)
            else arg
            for arg in args
        ]
        utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
        period = 12 if operator.startswith("value_mean_b") else 4  # Its own derivative is traced through the reference.
        if turn % period == index % period:
            utilities.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(getattr(ops, operator).default, tuple(given), test_utils=utilities)


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
def test_fakes_have_the_shape_and_strides_of_results(case: Case) -> None:
    mode, dtype = FakeTensorMode(), DTYPES[LAYOUTS.index(case) % 4]
    every = calls(case, dtype, ("max", "max-dropout"))
    # A gradient in another layout than the input.
    every += [
        (name, f"{what}, apart", (args[0].contiguous(), *args[1:])) for name, what, args in every if "back" in name
    ]
    for name, what, args in every:
        real = getattr(ops, name)(*args)
        with mode:
            fake = getattr(ops, name)(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args))
        pairs = [(real, fake)] if isinstance(real, torch.Tensor) else zip(real, fake, strict=True)
        for r, f in pairs:
            assert (r.shape, r.dtype, strides(r)) == (f.shape, f.dtype, strides(f)), f"{name} {what}"


@pytest.mark.parametrize("inference", [False, True])
def test_no_output_size_is_that_of_a_regular_grid(inference: bool) -> None:
    # A model of AOTInductor's hands over None for an empty list.
    (case,) = [case for case in LAYOUTS if case.name == "3x3/2 padded"]
    with torch.inference_mode(inference):
        for name, what, args in calls(case, torch.float32, ("ensemble",)):
            operator = getattr(ops, name).default
            at = [argument.name for argument in operator._schema.arguments].index("output_size")
            none = operator(*args[:at], None, *args[at + 1 :])
            torch.testing.assert_close(none, operator(*args), rtol=0, atol=0, msg=f"{name} {what}")


def test_every_operator_has_a_reference_derivatives_a_fake_and_a_vmap_rule() -> None:
    for name in _ops.SCHEMAS:
        for key in ("CompositeExplicitAutograd", "Autograd", "FuncTorchBatched"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"empool::{name}", key), (name, key)
        assert torch._library.simple_registry.singleton.find(f"empool::{name}").fake_impl.kernel is not None, name
        assert torch.Tag.pt2_compliant_tag in getattr(ops, name).default.tags
