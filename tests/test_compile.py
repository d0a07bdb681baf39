"""torch.compile and torch.export: one graph, the eager results, new draws at every call."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import empool
from cases import METHODS, function, layer
from empool.modules._layer import Pool
from tolerances import MEANS, assert_same_bits

pytestmark = [
    # Raised by PyTorch's own compiler.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:isinstance.*LeafSpec:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class _Every(nn.Module):
    """All the methods at once, after something with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.pools = nn.ModuleList(layer(stem, 2)(3, 2, 1, **arguments) for stem, arguments in METHODS.items())

    def forward(self, input: Tensor) -> Tensor:
        features = self.conv(input).relu()
        return torch.cat([pool(features) for pool in self.pools], dim=1)


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_a_given_seed_draws_what_eager_draws(backend: str) -> None:
    """And none draws anew. Inductor compiles code for each layout: it has one of them here, the other below."""

    sampled, meant = list(METHODS), list(METHODS)
    if backend == "inductor":  # It compiles for long, and every operator once is enough.
        sampled, meant = ["ensemble_max_pool", "stochastic_pool"], ["rank_pool", "soft_pool"]

    def call(input: Tensor, seed: Tensor | None) -> list[Tensor]:
        input = input * 2 + 1
        drawn = [function(stem, 2)(input, 3, 2, 1, seed=seed, **METHODS[stem]) for stem in sampled]
        return drawn + [function(stem, 2)(input, 3, 2, 1, training=False, **METHODS[stem]) for stem in meant]

    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for layout in (torch.channels_last, torch.contiguous_format)[: 1 if backend == "inductor" else 2]:
        input = torch.randn(2, 4, 10, 10).to(memory_format=layout).requires_grad_()
        for seed in (torch.tensor(3), torch.tensor(-4)):
            outputs, expected = compiled(input, seed), call(input, seed)
            assert_same_bits([each.detach() for each in outputs], [each.detach() for each in expected], layout=False)
            gradients = [torch.randn_like(each) for each in expected]
            (g,), (e,) = (torch.autograd.grad(each, input, gradients) for each in (outputs, expected))
            torch.testing.assert_close(g, e)
    with torch.no_grad():
        first, second = compiled(input, None), compiled(input, None)
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [False] * len(sampled) + [True] * len(meant)


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@torch._dynamo.config.patch(error_on_recompile=True)
def test_sizes_that_change(backend: str) -> None:
    """One graph for every size and seed, padding and ceil_mode included, with the eager results."""

    def call(input: Tensor, seed: Tensor, number: int) -> tuple[Tensor, ...]:
        value = empool.functional.stochastic_pool2d(input, 3, 2, 1, seed=number)
        mean = empool.functional.max_pool_dropout2d(input, 2, 2, dilation=2, training=False)
        drawing = (input, 3, 2, 1, 1, True)
        if (
            backend == "inductor"
        ):  # Its max-pooling, which has the indices of drawn zeros, is compiled for odd sizes anew.
            return value, mean, empool.functional.ensemble_max_pool2d(*drawing, p=0.5, seed=seed)
        return value, mean, *empool.functional.ensemble_max_pool2d(*drawing, True, p=0.5, seed=seed)

    compiled = torch.compile(call, fullgraph=True, backend=backend, dynamic=True)
    for shape in ((2, 3, 10, 11), (3, 4, 17, 8), (5, 3, 7, 7)):
        input, number = torch.randn(shape), shape[-1] - 9
        seed = torch.tensor(number)
        for result, expected in zip(compiled(input, seed, number), call(input, seed, number), strict=True):
            torch.testing.assert_close(result, expected)


def test_a_changed_p_is_noticed() -> None:
    module = empool.EnsembleMaxPool2d(2, p=0.0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    input = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    for p, training, expected in ((0.0, True, 4.0), (1.0, True, 3.0), (0.5, False, 3.5), (0.25, False, 3.75)):
        module.p = p
        module.train(training)
        assert compiled(input).item() == expected


def test_numbers_that_change() -> None:
    """Dynamo makes symbols of them; what is refused otherwise is refused then too."""

    def call(input: Tensor, seed: int, t: int, beta: float) -> tuple[Tensor, Tensor]:
        drawn = empool.functional.rank_pool2d(input, 3, distribution=empool.TopMean(t), seed=seed)
        return drawn, empool.functional.soft_pool2d(input, 3, beta=beta, training=False)

    compiled, input = torch.compile(call, fullgraph=True, backend="eager"), torch.randn(2, 3, 9, 9)
    for numbers in ((3, 1, 0.5), (4, 2, 0.75), (-5, 4, 1.5), (2**64 - 1, 3, 2.0)):
        assert_same_bits(compiled(input, *numbers), call(input, *numbers))
    with pytest.raises(Exception, match="expected beta to be finite"):
        compiled(input, 3, 3, float("inf"))


def test_one_and_three_dimensions_and_no_batch() -> None:
    def call(line: Tensor, solid: Tensor) -> tuple[Tensor, Tensor]:
        return (
            empool.functional.ensemble_max_pool1d(line, 3, 2, 1, p=0.5, seed=4),
            empool.functional.stochastic_max_pool3d(solid, 2, seed=2**63 + 1),
        )

    arguments = torch.randn(4, 9), torch.randn(2, 3, 4, 6, 4)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*arguments), call(*arguments))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    """The testing phase as a graph of its own, for any batch and size; training exports too, and draws."""
    model, input = _Every().eval(), torch.randn(2, 3, 10, 12)
    batch, height = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("height", min=5, max=100)
    shapes = {"input": {0: batch, 2: height}}
    program = torch.export.export(model, (input,), dynamic_shapes=shapes, strict=strict)
    for shape in ((2, 3, 10, 12), (5, 3, 21, 12)):
        other = torch.randn(shape)
        torch.testing.assert_close(program.module()(other), model(other), **MEANS[torch.float32])
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "empool.rank_mean.default" in names
    program = torch.export.export(model.train(), (input,), dynamic_shapes=shapes, strict=strict)
    seeds = [node.args[2] for node in program.graph.nodes if "randint" in str(node.target)]
    assert set(map(tuple, seeds)) == {(1,)}  # AOTInductor, too slow to be tried here, takes no empty size.
    training = program.module()
    assert not torch.equal(training(input), training(input))


def test_save_and_load_an_exported_program(tmp_path: Any) -> None:
    model, input = empool.EnsembleMaxPool2d(3, 2, 1).eval(), torch.randn(1, 3, 9, 9)
    program = torch.export.export(model, (input,))
    torch.export.save(program, tmp_path / "program.pt2")
    loaded: Callable[[Tensor], Tensor] = torch.export.load(tmp_path / "program.pt2").module()
    assert_same_bits(loaded(input), model(input))


@pytest.mark.parametrize("stem", METHODS)
def test_symbolic_trace_takes_a_layer_for_a_leaf(stem: str) -> None:
    """As it does `torch.nn`'s own: the traced network still has two phases, and the layer's arguments."""
    pool = layer(stem, 2)(2, **METHODS[stem])
    net = nn.Sequential(nn.Conv2d(3, 4, 3), pool)
    traced = torch.fx.symbolic_trace(net)
    assert [(node.op, node.target) for node in traced.graph.nodes][1:-1] == [("call_module", "0"), ("call_module", "1")]
    input = torch.randn(2, 3, 10, 10)
    torch.manual_seed(1)
    expected = net(input)
    torch.manual_seed(1)
    assert_same_bits(traced(input), expected)
    assert_same_bits(traced.eval()(input), net.eval()(input))


class _PlusOne(empool.EnsembleMaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class _Functional(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        pooled = empool.functional.max_pool_dropout2d(input, kernel_size=2, p=0.5, training=False)
        return empool.functional.rank_pool2d(pooled, 2, distribution=empool.EnsembleMax(0.5), training=False)


def _hooked() -> nn.Module:
    net = nn.Sequential(empool.EnsembleMaxPool2d(2, p=0.5))
    net[0].register_forward_hook(lambda module, args, output: output * 2)
    net[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return net


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(_PlusOne(2, p=0.5)),
        _hooked(),
        empool.EnsembleMaxPool2d(2, p=0.5),
        empool.LearnedRankPool2d(2, start=empool.TopMean(2)),
        _Functional(),
    ],
    ids=["extended", "hooked", "alone", "learned", "functional"],
)
def test_symbolic_trace_records_what_is_done_and_once(net: nn.Module) -> None:
    input = torch.randn(2, 3, 8, 8)
    traced = torch.fx.symbolic_trace(net.eval())
    assert_same_bits(traced(input), net(input))
    if isinstance(net, Pool):  # PyTorch can't pickle the annotations of this file, which are strings.
        assert_same_bits(pickle.loads(pickle.dumps(traced))(input), net(input))


@pytest.mark.parametrize("name", [name for name in empool.functional.__all__ if name[-2] == "2"])
def test_symbolic_trace_keeps_a_function_whole(name: str) -> None:
    function, options, dims = (
        getattr(empool.functional, name),
        METHODS[name[:-2].removeprefix("adaptive_")],
        int(name[-2]),
    )

    class Net(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return function(input, 2, **options, seed=3)

    traced, input = torch.fx.symbolic_trace(Net()), torch.randn(2, 3, *[8] * dims)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert targets[-1] is function
    assert all(isinstance(target, type) for target in targets[:-1])  # The distribution, made anew.
    assert_same_bits(traced(input), Net()(input))


def test_features_of_a_converted_network(torchvision: Any) -> None:
    """torchvision's feature extraction is a symbolic trace."""
    from torchvision.models import feature_extraction

    net = torchvision.models.resnet18(weights=None)
    empool.convert_(net, empool.EnsembleMax(0.1), strided_convs=True)
    extractor = feature_extraction.create_feature_extractor(net.eval(), ["maxpool", "layer2"])
    features = extractor(torch.randn(1, 3, 64, 64))
    assert {name: tuple(part.shape) for name, part in features.items()} == {
        "maxpool": (1, 64, 16, 16),
        "layer2": (1, 128, 8, 8),
    }


def test_inductor_takes_operators_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, it refuses an operator that the ONNX exporter has a definition for, unless it is in its list."""
    from torch._functorch import config as autograd
    from torch._inductor import config, lowering

    monkeypatch.setenv("CI", "true")
    for known in list(lowering.lowerings):
        if str(known).startswith("empool"):
            monkeypatch.delitem(lowering.lowerings, known)
    for pool in (empool.EnsembleMaxPool2d(2, p=0.3), empool.SoftPool2d(2)):
        for training in (True, False):
            with config.patch(fx_graph_cache=False), autograd.patch(enable_autograd_cache=False):
                compiled = torch.compile(pool.train(training), fullgraph=True)
                assert compiled(torch.randn(1, 2, 8, 8)).shape == (1, 2, 4, 4)
