"""torch.func: vmap with each kind of randomness, grad, the Jacobians, functional_call."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import empool
from cases import METHODS, Case, calls, function, tie_free
from tolerances import MEANS, assert_same_bits, assert_same_numbers

# Raised by PyTorch's own forward mode, the first time that it is used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
stems = pytest.mark.parametrize("stem", METHODS)


def _pool(stem: str, **more: object) -> Callable[[Tensor], Tensor]:
    return functools.partial(function(stem, 2), kernel_size=3, stride=2, padding=1, **METHODS[stem], **more)


@stems
def test_different_randomness_draws_for_every_example(stem: str) -> None:
    input = torch.randn(3, 16, 16).abs().expand(4, 3, 16, 16)
    outputs = vmap(_pool(stem), randomness="different")(input)
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 4


@stems
def test_same_randomness_draws_once(stem: str) -> None:
    input = torch.randn(3, 16, 16).abs().expand(4, 3, 16, 16)
    outputs = vmap(_pool(stem), randomness="same")(input)
    for output in outputs[1:]:
        assert_same_bits(output, outputs[0])
    again = vmap(_pool(stem), randomness="same")(input)
    assert not torch.equal(again, outputs)


@stems
def test_randomness_must_be_allowed(stem: str) -> None:
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        vmap(_pool(stem))(torch.randn(4, 3, 8, 8))
    vmap(_pool(stem, training=False))(torch.randn(4, 3, 8, 8))
    vmap(_pool(stem, seed=3))(torch.randn(4, 3, 8, 8))


@stems
@pytest.mark.parametrize("in_dim", [0, 1, 3])
def test_a_batch_of_seeds_draws_as_one_call_for_each(stem: str, in_dim: int) -> None:
    input, seeds = torch.randn(5, 2, 3, 8, 8), torch.tensor([1, -2, 3, 2**62, 5])

    def call(input: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _pool(stem, seed=seed, return_indices=True)(input)
        return result

    result = vmap(call, in_dims=(in_dim, 0))(input.movedim(0, in_dim), seeds)
    expected = [call(each, seed) for each, seed in zip(input, seeds, strict=True)]
    assert_same_bits(result, tuple(map(torch.stack, zip(*expected, strict=True))), layout=False)
    # One input under many seeds, and twice nested.
    result = vmap(call, in_dims=(None, 0))(input[0], seeds)
    expected = [call(input[0], seed) for seed in seeds]
    assert_same_bits(result, tuple(map(torch.stack, zip(*expected, strict=True))), layout=False)
    nested = vmap(vmap(call, in_dims=(None, 0)), in_dims=(0, None))(input, seeds)
    for i, each in enumerate(input):
        for j, seed in enumerate(seeds):
            assert_same_bits(tuple(part[i, j] for part in nested), call(each, seed), layout=False)


@pytest.mark.parametrize("case", [Case("folded", (2, 3, 7, 8), 3, 2, 1), Case("folded 1d", (2, 3, 9), 2, 2)], ids=str)
def test_the_rule_of_every_operator(case: Case) -> None:
    """Every tensor argument batched, the dimension last."""
    for name, what, args in calls(case, torch.float32, ("ensemble", "max-dropout")):
        operator = getattr(torch.ops.empool, name)
        at = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        # A seed, a table of integers, and what has dimensions to turn around.
        other = {i: args[i] + 3 if args[i].dtype == torch.int64 else args[i].flip(0) for i in at}
        # All tensors, and all but the tables.
        for batched in (at, at[:2] if "draw" in name else at[:1]):

            def call(*tensors: Tensor, batched: list[int] = batched, operator: Any = operator, args: Any = args) -> Any:
                given = dict(zip(batched, tensors, strict=True))
                return operator(*(given.get(i, arg) for i, arg in enumerate(args)))

            batches = [[args[i], other[i]] for i in batched]
            expected = [call(*(batch[i] for batch in batches)) for i in range(2)]
            result = vmap(call, in_dims=-1)(*(torch.stack(batch, dim=-1) for batch in batches))
            if "weight_grad" in name:  # A sum over the windows, in another order.
                torch.testing.assert_close(result, torch.stack(expected))
            elif name.startswith("value_mean"):  # The kernels of each layout round in an order of their own.
                torch.testing.assert_close(result, torch.stack(expected), **MEANS[torch.float32])
            elif isinstance(result, Tensor):
                assert_same_numbers(result, torch.stack(expected), f"{name} {what}")
            else:
                assert_same_numbers(result, tuple(map(torch.stack, zip(*expected, strict=True))), f"{name} {what}")
            empty = vmap(call, in_dims=-1)(*(torch.stack(batch, dim=-1)[..., :0] for batch in batches))
            for part, one in zip(_parts(empty), _parts(expected[0]), strict=True):
                assert part.shape == (0, *one.shape)


def _parts(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


@stems
@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
def test_jacobians(stem: str, training: bool) -> None:
    """Forward, reverse and by hand: column by column."""
    input = tie_free((1, 2, 4, 3)) + (1.5 if stem == "stochastic_pool" else 0)
    call = _pool(stem, seed=7, training=training)
    forward, reverse = jacfwd(call)(input), jacrev(call)(input)
    torch.testing.assert_close(forward, reverse)
    columns = torch.stack([jvp(call, (input,), (unit.reshape(input.shape),))[1] for unit in torch.eye(24).double()], -1)
    torch.testing.assert_close(forward.flatten(4), columns)
    output, pull = vjp(call, input)
    (row,) = pull(torch.ones_like(output))
    torch.testing.assert_close(row, reverse.sum((0, 1, 2, 3)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("stem", ["ensemble_max_pool", "max_pool_dropout", "stochastic_pool", "soft_pool"])
def test_transforms_of_transforms(stem: str, training: bool) -> None:
    """The second derivatives in the input, in the method's own number and mixed, in four ways, as autograd has them."""
    input, number = tie_free((1, 2, 3, 3)) / 9, torch.tensor([0.3, 0.6], dtype=torch.float64)
    name = {"stochastic_pool": None, "soft_pool": "beta"}.get(stem, "p")

    def call(input: Tensor, number: Tensor) -> Tensor:
        own = {} if name is None else {name: number}
        pooled = function(stem, 2)(input, 2, 1, **own, seed=7, training=training)
        return pooled.pow(3).sum() * number.sum().cos()

    expected = torch.autograd.functional.hessian(call, (input, number))
    for outer, inner in itertools.product((jacfwd, jacrev), repeat=2):
        torch.testing.assert_close(outer(inner(call, (0, 1)), (0, 1))(input, number), expected)


@stems
def test_gradients_of_single_examples(stem: str) -> None:
    """grad under vmap, as per-sample gradients are made."""
    input, seeds = torch.randn(5, 3, 8, 8).abs() + 0.1, torch.arange(5)

    def loss(input: Tensor, seed: Tensor) -> Tensor:
        return (_pool(stem, seed=seed)(input) ** 2).sum()

    together = vmap(grad(loss))(input, seeds)
    alone = torch.stack([grad(loss)(each, seed) for each, seed in zip(input, seeds, strict=True)])
    torch.testing.assert_close(together, alone)
    assert (together != 0).any((1, 2, 3)).all()


def test_functional_call() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), empool.EnsembleMaxPool2d(2, p=0.5), nn.Flatten(), nn.Linear(36, 2))
    parameters = dict(model.named_parameters())
    input = torch.randn(6, 3, 8, 8)

    def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
        return functional_call(model, parameters, (input.unsqueeze(0),)).square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, input)
    assert all(gradient.shape == (6, *parameters[name].shape) for name, gradient in gradients.items())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    model.eval()
    torch.testing.assert_close(functional_call(model, parameters, (input,)), model(input))
