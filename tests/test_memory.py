"""p is data: a layer's p changes in memory, which recompiles nothing, and what it keeps goes where it goes."""

from __future__ import annotations

import copy
import io
import operator
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

import empool
from empool import _tables, functional
from tolerances import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*rank_mean_weight_grad:UserWarning"),
]
PS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0)
INPUT = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


LAYERS: dict[str, tuple[Callable[[], nn.Module], str, Any]] = {
    "ensemble": (lambda: empool.EnsembleMaxPool2d(2, p=0.3), "p", PS),
    "dropout": (lambda: empool.MaxPoolDropout2d(3, 2, 1, p=0.3), "p", PS),
    "stochastic max": (lambda: empool.StochasticMaxPool2d(3, 2, 1), "drop", PS[:-1]),
    "by channel": (lambda: empool.EnsembleMaxPool2d(2, p=[0.1, 0.2, 0.3]), "p", [(p, 1 - p, p / 2) for p in PS]),
    "adaptive": (lambda: empool.AdaptiveEnsembleMaxPool2d((4, 3)), "p", PS),
    "soft": (lambda: empool.SoftPool2d(3, 2, 1), "beta", PS),
    "adaptive soft by channel": (lambda: empool.AdaptiveSoftPool2d(4, beta=[1, 2, 3]), "beta", [(p, 1, 2) for p in PS]),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_p_recompiles_nothing(name: str, training: bool) -> None:
    make, attribute, values = LAYERS[name]
    layer = make().train(training)
    layer.seed = 3
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for value in values:
        setattr(layer, attribute, value)
        torch.testing.assert_close(compiled(INPUT), layer(INPUT))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_compiled_layers_table_is_an_input() -> None:
    """Whatever the sizes of images are; neither a copy of the layer nor another one is compiled anew."""
    graphs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append([node.target for node in module.graph.nodes if node.op.startswith("call")])
        return module

    layer, other = empool.EnsembleMaxPool2d(3, 2, 1, p=0.3), empool.EnsembleMaxPool2d(3, 2, 1, p=0.7)
    compiled = torch.compile(lambda pool, input: pool(input), fullgraph=True, backend=backend, dynamic=True)
    for pool, shape in ((layer, (2, 3, 6, 8)), (copy.deepcopy(layer), (6, 5, 9, 7)), (other, (2, 3, 6, 8))):
        torch.manual_seed(1)
        result = compiled(pool, torch.ones(shape).cumsum(-1))
        torch.manual_seed(1)
        assert_same_bits(result, pool(torch.ones(shape).cumsum(-1)))
    assert graphs == [[torch.randint, "reshape", torch.ops.empool.rank_draw.default, operator.getitem]]


def test_a_graph_reads_finished_tables() -> None:
    """Of functions, of adaptive windows and of large ones too; a copied layer or another p is not compiled anew."""
    targets: set[Any] = set()

    def backend(module: Any, inputs: Any) -> Any:
        targets.update(node.target for node in module.graph.nodes if node.op.startswith("call"))
        return module

    def call(small: Tensor, large: Tensor, pools: nn.ModuleList) -> list[Tensor]:
        return [
            *(pool(input) for pool in pools for input in (small, large)),
            functional.ensemble_max_pool2d(small, 2, p=0.4, seed=1),
            functional.max_pool_dropout2d(small, 3, 2, 1, p=0.4, training=False),
            functional.adaptive_rank_pool2d(large, 5, distribution=empool.Ordinal((0.5, 0.3, 0.2)), seed=1),
            functional.soft_pool2d(small, 2, beta=0.5, training=False),
        ]

    pools = nn.ModuleList(
        [
            empool.AdaptiveMaxPoolDropout2d(3, p=0.3, seed=2),
            empool.AdaptiveEnsembleMaxPool2d(4, p=(0.1, 0.5, 0.9), seed=2),
            empool.AdaptiveRankPool2d((2, 1), distribution=empool.Mixed(0.4), seed=2),
            empool.MaxPoolDropout2d(17, 9, 8, p=0.3, seed=2),
        ]
    )
    small, large = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 18, 19)
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for _ in range(2):
        assert_same_bits(compiled(small, large, pools), call(small, large, pools))
        pools = copy.deepcopy(pools)
        pools[0].p, pools[1].p, pools[2].distribution = 0.6, (0.2, 0.3, 0.7), empool.Mixed(0.9)
    operators = {f"empool.{name}.default" for name in ("rank_draw", "rank_mean", "value_mean")}
    assert {str(target) for target in targets} - operators == {str(torch.full), str(operator.getitem)}
    assert counters["stats"]["unique_graphs"] == 1


def test_a_functions_p_recompiles_once() -> None:
    """Dynamo takes a number for a constant until it sees another."""

    def call(input: Tensor, p: float, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = functional.ensemble_max_pool2d(input, 2, p=p, seed=seed)
        return (
            pooled,
            functional.max_pool_dropout2d(input, 2, p=p, training=False),
            functional.soft_pool2d(input, 2, beta=p, training=False),
        )

    compiled = torch.compile(call, fullgraph=True, backend="inductor")
    for p in PS:
        for result, expected in zip(compiled(INPUT, p, torch.tensor(7)), call(INPUT, p, torch.tensor(7)), strict=True):
            torch.testing.assert_close(result, expected)
    assert counters["stats"]["unique_graphs"] == 2


def test_a_schedule_recompiles_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), empool.EnsembleMaxPool2d(2), nn.Conv2d(4, 4, 2), empool.MaxPoolDropout2d(2))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for step in range(8):
        empool.set_p(net, step / 8)
        compiled(INPUT).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("p", [0.25, [0.1, 0.5, 0.9]], ids=str)
@pytest.mark.parametrize("kind", [empool.EnsembleMaxPool2d, empool.MaxPoolDropout2d, empool.StochasticMaxPool2d])
def test_p_by_channel_is_each_channels_p(kind: Any, p: Any) -> None:
    name = "drop" if kind is empool.StochasticMaxPool2d else "p"
    layer = kind(3, 2, 1, **{name: p}, seed=5)
    each = p if isinstance(p, list) else [p] * 3
    if isinstance(p, list):
        assert getattr(layer, name).tolist() == p
    else:
        assert getattr(layer, name) == p
    for phase in (True, False):
        output = layer.train(phase)(INPUT)
        for channel, own in enumerate(each):
            alone = kind(3, 2, 1, **{name: own}, seed=5).train(phase)(INPUT)
            assert_same_bits(output[:, channel], alone[:, channel], layout=False)


def test_p_as_a_tensor_has_a_gradient() -> None:
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)

    def call(p: Tensor) -> Tensor:
        return functional.ensemble_max_pool2d(INPUT.double(), 3, 2, 1, p=p, training=False)

    assert torch.autograd.gradcheck(call, (p,), check_forward_ad=True)
    sampled = functional.ensemble_max_pool2d(INPUT.double(), 3, 2, 1, p=p, seed=3)
    (gradient,) = torch.autograd.grad(sampled.sum(), p)
    torch.testing.assert_close(gradient, torch.autograd.grad(call(p).sum(), p)[0])


def test_a_wrong_number_of_channels_is_refused() -> None:
    message = "ensemble_max_pool2d: expected one number or one for each of 3 channels, got 2"
    with pytest.raises(ValueError, match=message):
        empool.EnsembleMaxPool2d(2, p=[0.1, 0.2])(INPUT)


LEARNED = ("LearnedRankPool", "SoftPool")


@pytest.mark.parametrize(("kind", "name"), [(empool.EnsembleMaxPool2d, "p"), (empool.SoftPool2d, "beta")])
@pytest.mark.parametrize("p", [0.3, [0.1, 0.2, 0.3]], ids=str)
def test_what_a_layer_keeps_goes_where_the_layer_goes(kind: Any, name: str, p: Any) -> None:
    layer = kind(2, **{name: p}).eval()
    expected = layer(INPUT)
    assert not layer.state_dict()
    assert not list(layer.buffers())
    assert not list(layer.parameters())
    assert_same_bits(layer.half()(INPUT), expected)
    assert_same_bits(layer.to(torch.bfloat16)(INPUT), expected)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(stream, weights_only=False)):
        assert_same_bits(other(INPUT), expected)
        setattr(other, name, 0.9)  # Copies are apart.
        assert_same_bits(layer(INPUT), expected)
    meta = layer.to("meta")
    assert name == "beta" or meta._tables.number.is_meta
    setattr(meta, name, 0.75)
    assert meta(INPUT.to("meta")).is_meta
    back = meta.to_empty(device="cpu")
    assert_same_bits(back(INPUT), kind(2, **{name: 0.75}).eval()(INPUT))
    assert_same_bits(torch.compile(back, backend="aot_eager")(INPUT), back(INPUT))
    with torch.device("meta"):
        born = kind(2, **{name: p}).eval()
    assert_same_bits(born(INPUT), expected)
    with FakeTensorMode(), torch.device("cuda"):  # Else a graph would send it there at every call.
        there = kind(2, **{name: p})
        kept = there._tables.number if name == "p" else there.beta if there._number is None else there._number
    assert kept.is_cuda


def test_a_new_p_is_written_where_the_old_one_was() -> None:
    """So that a compiled graph reads the new one; the same holds of tables on a GPU, for CUDA graphs (see below)."""
    layer = empool.MaxPoolDropout2d(2, p=0.3).eval()
    number = layer._tables.number.data_ptr()
    layer(INPUT)
    layer.p = 0.6
    assert layer._tables.number.data_ptr() == number
    assert layer._tables.number.item() == 0.6
    assert_same_bits(layer(INPUT), empool.MaxPoolDropout2d(2, p=0.6).eval()(INPUT))


def test_a_p_that_is_refused_changes_nothing() -> None:
    layer = empool.EnsembleMaxPool2d(2, p=0.3).eval()
    expected = layer(INPUT)
    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
        torch.func.grad(lambda input: (empool.set_p(layer, 0.6), layer(input).sum())[1])(INPUT)
    assert layer.p == 0.3
    assert_same_bits(layer(INPUT), expected)


def test_tables_are_sent_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine without one can tell: from pinned memory, without blocking."""
    seen: list[Any] = []
    tensor = torch.tensor
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(Tensor, "to", lambda self, *where, **how: seen.append((*where, how)) or self)
    monkeypatch.setattr(
        torch, "tensor", lambda *args, pin_memory=False, **rest: seen.append(pin_memory) or tensor(*args, **rest)
    )
    cuda, tables = torch.device("cuda"), _tables.of_kind(empool.MaxDropout, 0.3)
    seen.clear()
    for training in (True, False):
        tables.get((4,), training, cuda)
        assert seen == [True, (cuda, {"non_blocking": True})]
        seen.clear()


def test_two_p_before_one_backward() -> None:
    layer, input = empool.EnsembleMaxPool2d(2, p=0.0).eval(), INPUT.clone().requires_grad_()
    first = layer(input).sum()
    layer.p = 1.0
    (both,) = torch.autograd.grad(first + layer(input).sum(), input)
    alone = [torch.autograd.grad(empool.EnsembleMaxPool2d(2, p=p).eval()(input).sum(), input)[0] for p in (0.0, 1.0)]
    torch.testing.assert_close(both, sum(alone))


def test_beta_made_for_fake_tensors_serves_no_real_one() -> None:
    with FakeTensorMode() as mode:
        functional.soft_pool2d(mode.from_tensor(INPUT), 2, beta=0.7654, training=False)
    assert functional.soft_pool2d(INPUT, 2, beta=0.7654, training=False).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [True, False])
def test_a_cuda_graph_replays_with_another_p(training: bool) -> None:
    layer, input = empool.EnsembleMaxPool2d(2, p=0.0).cuda().train(training), INPUT.cuda()
    layer(input)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(input)
    for p in (1.0, 0.0):
        layer.p = p
        graph.replay()
        expected = empool.EnsembleMaxPool2d(2, p=p).cuda().train(training)(input)
        assert_same_bits(output, expected)


def test_generators() -> None:
    generator = torch.Generator().manual_seed(4)
    state = torch.get_rng_state()
    layer = empool.EnsembleMaxPool2d(2, p=0.5, generator=generator)
    first, second = layer(INPUT), layer(INPUT)
    assert not torch.equal(first, second)
    generator.manual_seed(4)
    assert_same_bits((layer(INPUT), layer(INPUT)), (first, second))
    generator.manual_seed(4)
    assert_same_bits(functional.ensemble_max_pool2d(INPUT, 2, p=0.5, generator=generator), first)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    with pytest.raises(ValueError, match="ensemble_max_pool2d: expected a seed or a generator, got both"):
        functional.ensemble_max_pool2d(INPUT, 2, p=0.5, generator=generator, seed=3)


def test_a_stateless_key_is_a_seed() -> None:
    random = pytest.importorskip("torch.func._random")
    # Seed and offset; to split one takes a GPU.
    keys = [random.key(7), random.key(8), torch.tensor([7, 1], dtype=torch.uint64)]
    outputs = [functional.ensemble_max_pool2d(INPUT, 2, p=0.5, seed=key) for key in keys]
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 3
    assert_same_bits(functional.ensemble_max_pool2d(INPUT, 2, p=0.5, seed=random.key(7)), outputs[0])


@pytest.mark.parametrize(
    ("tied", "distinct"), [(None, (3, 16)), ("channel", (1, 16)), ("position", (3, 1)), ("image", (1, 1))]
)
@pytest.mark.parametrize("stem", ["ensemble_max_pool", "stochastic_pool", "soft_pool"])
def test_tied_outputs_share_their_draw(stem: str, tied: Any, distinct: tuple[int, int]) -> None:
    """The same window everywhere: outputs that share a number are the same, and others differ somewhere."""
    window = torch.arange(1.0, 17).reshape(4, 4)
    input = window.repeat(4, 4).expand(8, 3, 16, 16)
    output = getattr(functional, f"{stem}2d")(input, 4, seed=3, tied=tied).flatten(2)  # (8, 3, 16)
    assert (output == output[:, :1]).all() == (distinct[0] == 1)
    assert (output == output[:, :, :1]).all() == (distinct[1] == 1)
    assert not (output == output[:1]).all()


def test_tied_is_one_of_four() -> None:
    message = "ensemble_max_pool2d: expected tied to be 'channel', 'position', 'image' or None, got 'row'"
    with pytest.raises(ValueError, match=message):
        functional.ensemble_max_pool2d(INPUT, 2, tied="row")  # type: ignore[call-overload]
