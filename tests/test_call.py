"""What a call remembers, the seed it draws for itself, and what it leaves to PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import empool
from empool import _call, _extension, _ops, _prepared, _private, _tables, functional, reference
from empool._call import Method
from empool.distributions import RankDistribution
from tolerances import assert_same_bits

built = pytest.mark.skipif(not _extension.load(), reason="kernels that are not built remember nothing")


def _made(layer: torch.nn.Module, input: torch.Tensor) -> list[torch.Tensor]:
    """Return all that comes of a layer: its output, first and second derivatives."""
    torch.manual_seed(4)
    with torch.no_grad():
        found = [layer(input)]
    input = input.detach().requires_grad_()
    output = layer(input)
    (first,) = torch.autograd.grad(output.sin().sum(), input, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), input)
    (again,) = torch.autograd.grad(layer(input).sum(), input)
    return [*found, output.detach(), first.detach(), second, again]


@built
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer",
    [
        empool.EnsembleMaxPool2d(2, p=0.5),
        empool.EnsembleMaxPool2d(2, p=0.0),
        empool.MaxPoolDropout2d(3, 2, 1, p=[0.1, 0.5, 0.9], tied="channel"),
        empool.StochasticPool2d(3, 2, 1),
        empool.SoftPool2d(2, ceil_mode=True),
        empool.RankPool2d((2, 3), (1, 2), distribution=empool.Average(), seed=2**64 - 7),
        empool.AdaptiveEnsembleMaxPool2d((4, None), p=0.5, seed=torch.tensor([9])),
    ],
    ids=repr,
)
def test_a_call_that_was_prepared_is_the_same(
    layer: torch.nn.Module, layout: torch.memory_format, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    layer.train(training)
    with monkeypatch.context() as without:
        without.setattr(_prepared, "_key", lambda *given: None)
        layer(input)
        expected = _made(layer, input)
    state = torch.get_rng_state()
    layer(input)
    monkeypatch.setattr(_call, "pool", None)
    assert_same_bits(_made(layer, input), expected)
    assert_same_bits(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_calls_on_a_gpu_are_prepared_too(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine without one can tell: tensors that say so, and the reference for kernels."""
    layers = (
        empool.MaxPoolDropout2d(3, 2, 1, p=[0.1, 0.5, 0.9]),
        empool.SoftPool2d(2),
        empool.EnsembleMaxPool2d(2, p=0),
        empool.EnsembleMaxPool2d(2, p=0.5, seed=2**64 - 7),
        empool.EnsembleMaxPool2d(2, p=0.5, seed=torch.tensor(3)),
    )
    input = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    expected = [_made(layer.train(training), input) for layer in layers]
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(Tensor, "is_cpu", False)
    assert not _private.is_unseen(torch.zeros(2, dtype=torch.complex64).conj().imag)  # Its signs aren't turned yet.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(_ops, "_in_python", {name: lambda name=name: getattr(reference, name) for name in _ops.SCHEMAS})
    made = [copy.deepcopy(layer) for layer in layers]
    monkeypatch.setattr(_call, "pool", None)
    for layer, results in zip(made, expected, strict=True):
        assert_same_bits(_made(layer, input), results)
    input.requires_grad_()
    with torch.no_grad(), monkeypatch.context() as unrecorded:
        unrecorded.setattr(Tensor, "clone", None)  # No table is needed after the call.
        made[0](input)
    (before,) = torch.autograd.grad(made[0](input).sum(), input) if not training else (None,)
    output = made[0](input)
    made[0].p = 0.0  # Is written into the table.
    if not training:
        assert_same_bits(torch.autograd.grad(output.sum(), input)[0], before)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    state = torch.get_rng_state()
    made[2](input)
    assert torch.equal(torch.get_rng_state(), state) != training  # A replay may have another p.


@built
def test_the_first_call_is_recorded_as_later_ones_are_and_what_is_prepared_ends_with_its_layer() -> None:
    layer, input = empool.EnsembleMaxPool2d(2), torch.randn(2, 3, 8, 8, requires_grad=True)
    assert len({type(layer(input).grad_fn) for _ in range(2)}) == 1
    tables = weakref.ref(layer._tables)
    assert tables().prepared  # type: ignore[union-attr]
    del layer
    assert tables() is None


@built
def test_a_prepared_call_knows_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, input = empool.EnsembleMaxPool2d(2, p=0.0).eval(), torch.randn(2, 3, 8, 8)
    for name, value in (("p", 1.0), ("kernel_size", 4), ("p", [0.0, 0.5, 1.0]), ("stride", 1), ("p", 0.25)):
        layer(input)
        setattr(layer, name, value)
        with monkeypatch.context() as without:
            without.setattr(_prepared, "_key", lambda *given: None)
            expected = layer(input)
        assert_same_bits(layer(input), expected)
        assert_same_bits(layer(input), expected)
    layer.train()
    layer.generator = torch.Generator().manual_seed(3)
    first, state = layer(input), torch.get_rng_state()
    layer.generator.manual_seed(3)
    with monkeypatch.context() as without:
        without.setattr(_prepared, "_key", lambda *given: None)
        assert_same_bits(layer(input), first)
    assert torch.equal(torch.get_rng_state(), state)
    for wrong in ({"seed": 1}, {"seed": 2**64, "generator": None}, {"tied": "no"}, {"p": True}):
        with pytest.raises((ValueError, TypeError)):
            functional.ensemble_max_pool2d(input, 2, **{"p": 0.25, "generator": layer.generator, **wrong})


@built
@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")  # PyTorch's own, in forward mode.
@pytest.mark.parametrize("training", [True, False])
def test_a_prepared_call_heeds_modes(training: bool) -> None:
    layer, input = empool.EnsembleMaxPool2d(2).train(training), torch.randn(2, 3, 8, 8, requires_grad=True)
    for _ in range(2):
        with torch.inference_mode(), torch.enable_grad():
            assert not layer(input).requires_grad
        output = layer(input)
        with forward_ad.dual_level():
            grad = forward_ad.make_dual(torch.zeros_like(output), torch.ones_like(output))
            (found,) = torch.autograd.grad(output, input, grad, retain_graph=True)
            assert_same_bits(forward_ad.unpack_dual(found).tangent, torch.autograd.grad(output.sum(), input)[0])
    with torch.device("meta"):  # As it may be where empool is imported.
        assert _prepared._Seed().tensor.is_cpu


@built
def test_a_p_that_changes_while_tables_are_made_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, input, make = empool.EnsembleMaxPool2d(2, p=0.0).eval(), torch.randn(2, 3, 8, 8), _tables._table
    layer._tables.kept.clear()
    with monkeypatch.context() as meanwhile:  # Another thread's set_p.
        meanwhile.setattr(_tables, "_table", lambda *given: (make(*given), setattr(layer, "p", layer.p + 0.25))[0])
        layer(input)
    expected = functional.ensemble_max_pool2d(input, 2, p=layer.p, training=False)
    assert_same_bits([layer(input), layer(input)], [expected, expected])


@built
@pytest.mark.parametrize("windows", [(2,), (3, 2, 1), (3, 1, 0, 2)], ids=str)
def test_numbers_remembered_as_one_give_the_same_bits(
    windows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def results() -> list[torch.Tensor]:
        found = []
        for call in (functional.ensemble_max_pool2d, functional.stochastic_pool2d, functional.soft_pool2d):
            for training in (True, False):
                for tied, size in ((None, 9), ("channel", 8)):
                    input = torch.randn(2, 3, size, 11, generator=torch.Generator().manual_seed(1)).requires_grad_()
                    output = call(input, *windows, training=training, seed=7, tied=tied)
                    output.square().sum().backward()
                    found += [output.detach(), input.grad]
        return found

    with monkeypatch.context() as without:
        without.setattr(_ops, "_recalled", {})
        expected = results()
    monkeypatch.setattr(_private, "below_autograd", None)  # What is not recalled would need it.
    for _ in range(2):
        assert_same_bits(results(), expected)


def test_remembered_numbers_are_in_no_traced_graph() -> None:
    def gradient(input: torch.Tensor) -> torch.Tensor:
        input = input.detach().requires_grad_()
        output = functional.ensemble_max_pool2d(input, 2, p=0.5, seed=1)
        return torch.autograd.grad(output.square().sum(), input)[0]

    input = torch.randn(1, 2, 6, 6)
    expected = gradient(input)  # Its numbers are remembered.
    graph = make_fx(gradient)(input)
    assert "recalled" not in graph.code
    assert "rank_draw" in graph.code
    assert_same_bits(graph(input), expected)
    assert "recalled" not in str(torch.export.export(empool.EnsembleMaxPool2d(2), (input,)))


def test_where_no_more_numbers_can_be_remembered_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    input = torch.randn(1, 1, 6, 6)
    expected = functional.ensemble_max_pool2d(input, 3, 3, p=0.5, seed=1)
    monkeypatch.setattr(_ops, "_remembered", {})
    monkeypatch.setattr(_ops, "_MOST_REMEMBERED", 0)
    assert_same_bits(functional.ensemble_max_pool2d(input, 3, 3, p=0.5, seed=1), expected)
    assert not _ops._remembered


def test_a_table_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("threshold_table", "weight_table"):
        table = getattr(RankDistribution, name)
        monkeypatch.setattr(
            RankDistribution, name, lambda self, counts, n=name, t=table: made.append(n) or t(self, counts)
        )
    layer, p = empool.EnsembleMaxPool2d(3, 2, 1, p=0.123), 0.0471
    for size in (30, 31):  # Other sizes, the same counts of valid activations.
        for training in (True, False):
            layer.train(training)(torch.zeros(1, 2, size, size))
            functional.ensemble_max_pool2d(torch.zeros(1, 2, size, size), 3, 2, 1, p=p, training=training)
    assert sorted(made) == ["threshold_table", "threshold_table", "weight_table", "weight_table"]


def test_fractions_are_refused_whatever_came_before() -> None:
    """2 == 2.0 for a dictionary, but a window of 2.0 is PyTorch's TypeError."""
    input = torch.zeros(1, 1, 6, 6)
    functional.ensemble_max_pool2d(input, (2, 2), p=0.5)
    with pytest.raises(TypeError, match=r"must be tuple of ints|must be int"):
        functional.ensemble_max_pool2d(input, (2.0, 2.0), p=0.5)


def test_a_type_error_of_a_distribution_is_its_own_and_it_is_asked_once() -> None:
    asked = []

    class Broken(RankDistribution):
        unchanging = True

        def probabilities(self, n: int) -> tuple[float, ...]:
            asked.append(n)
            raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        functional.rank_pool2d(torch.zeros(1, 1, 4, 4), 2, distribution=Broken())
    assert asked == [4]
    layer = empool.RankPool2d(2, distribution=Broken())
    with pytest.raises(TypeError, match="mine"):
        layer(torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("by_layer", [False, True])
def test_a_frozen_dataclass_may_hold_what_changes(by_layer: bool) -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Kept(RankDistribution):
        weights: torch.Tensor

        def probabilities(self, n: int) -> tuple[float, ...]:
            return tuple(self.weights.tolist())[:n]

    distribution = Kept(torch.tensor([1.0, 0.0]))
    layer = empool.RankPool1d(2, distribution=distribution).eval()
    input = torch.tensor([[[1.0, 5.0]]])
    for share in (0.0, 1.0, 0.5):
        distribution.weights.copy_(torch.tensor([1 - share, share]))
        pooled = (
            layer(input) if by_layer else functional.rank_pool1d(input, 2, distribution=distribution, training=False)
        )
        assert pooled.item() == 5 - 4 * share


def test_a_table_made_for_inference_serves_training() -> None:
    layer = empool.EnsembleMaxPool2d(2, p=0.31).eval()
    with torch.inference_mode():
        layer(torch.zeros(1, 1, 4, 4))
        functional.ensemble_max_pool2d(torch.zeros(1, 1, 4, 4), 2, p=0.0317, training=False)
    input = torch.randn(1, 1, 4, 4, requires_grad=True)
    layer(input).sum().backward()
    functional.ensemble_max_pool2d(input, 2, p=0.0317, training=False).sum().backward()


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, lambda f: torch.compile(f, backend="eager")])
def test_a_table_made_for_a_transform_serves_everyone(transform: Any) -> None:
    layer = empool.EnsembleMaxPool2d(2, p=0.31).eval()
    input = torch.randn(1, 1, 4, 4)
    expected = empool.EnsembleMaxPool2d(2, p=0.31).eval()(input)
    transform(lambda x: layer(x).sum())(input)
    with FakeTensorMode() as mode:
        layer(mode.from_tensor(input))
    torch.testing.assert_close(layer(input), expected)


def test_a_seed_of_its_own_has_64_bits() -> None:
    """An end, a quarter of all numbers, is missed by chance for one generator's seed in 10^8; the seed is fixed."""
    seeds = [_call._key(torch.empty(0), Method(None, None, True, None, None, None)).item() for _ in range(64)]
    assert min(seeds) < -(2**62) < 2**62 < max(seeds)
    for bit in range(64):
        assert {seed >> bit & 1 for seed in seeds} == {0, 1}, bit


@pytest.mark.parametrize(("kernel", "padding"), [(1, 1), (2, 2), (3, 2), (3, 4), (4, 3), (5, 3), (2, 4)])
@pytest.mark.parametrize("training", [False, True])
def test_padding_beyond_half_of_a_window_is_pytorchs_error(kernel: int, padding: int, training: bool) -> None:
    for dims, pool in enumerate((functional.ensemble_max_pool1d, functional.ensemble_max_pool2d), 1):
        with pytest.raises(RuntimeError, match="half of"):
            pool(torch.zeros(2, 3, *[9] * dims), kernel, 1, padding, p=0.5, training=training)
