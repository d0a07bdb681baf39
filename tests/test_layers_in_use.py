"""Layers as users treat them: copied, traced, given parameters, moved to other types."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import empool

LAYERS = {
    "ensemble": empool.EnsembleMaxPool2d(2, p=0.3),
    "a p for each channel": empool.EnsembleMaxPool2d(2, p=[0.0, 0.5, 1.0]),
    "dropout": empool.MaxPoolDropout2d(2, p=0.3),
    "stochastic max": empool.StochasticMaxPool2d(2),
    "stochastic": empool.StochasticPool2d(2),
    "rank": empool.RankPool2d(2, distribution=empool.Ordinal((0.5, 0.3, 0.2))),
    "soft": empool.SoftPool2d(2),
    "learned": empool.LearnedRankPool2d(2, start=empool.Average()),
    "learned, sampling": empool.LearnedRankPool2d(2, start=empool.Average(), channels=3, sample=True),
    "adaptive": empool.AdaptiveEnsembleMaxPool2d((3, 5), p=0.3),
    "adaptive soft": empool.AdaptiveSoftPool2d(3),
}
layers = pytest.mark.parametrize("layer", [pytest.param(layer, id=name) for name, layer in LAYERS.items()])


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sampled(layer: nn.Module, input: Tensor) -> Tensor:
    torch.manual_seed(2)
    output: Tensor = layer.train()(input)
    return output


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@layers
def test_a_copy_computes_the_same(layer: nn.Module, duplicate: object) -> None:
    made = duplicate(layer)
    assert repr(made) == repr(layer)
    torch.testing.assert_close(sampled(made, images()), sampled(layer, images()), rtol=0, atol=0)
    torch.testing.assert_close(made.eval()(images()), layer.eval()(images()), rtol=0, atol=0)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_a_p_of_its_own(duplicate: object) -> None:
    layer = empool.EnsembleMaxPool2d(2, p=0.3).eval()
    layer(images())
    made = duplicate(layer)
    made.p = 0.9
    assert (layer.p, made.p) == (0.3, 0.9)
    for each in (layer, made):
        expected = empool.functional.ensemble_max_pool2d(images(), 2, p=each.p, training=False)
        torch.testing.assert_close(each(images()), expected, rtol=0, atol=0)


@layers
def test_a_symbolic_trace_takes_it_for_a_leaf(layer: nn.Module) -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(sampled(traced, images()), sampled(layer, images()), rtol=0, atol=0)


@layers
def test_layouts_and_threads_change_no_bit(layer: nn.Module) -> None:
    expected = sampled(layer, images()), layer.eval()(images())
    threads = torch.get_num_threads()
    input = images().to(memory_format=torch.channels_last)
    torch.set_num_threads(3)
    try:
        torch.testing.assert_close((sampled(layer, input), layer.eval()(input)), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("beta", [1.5, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("given", [False, True])
def test_a_trainable_beta_is_a_parameter_and_gets_a_gradient(given: bool, beta: float | list[float]) -> None:
    parameter = nn.Parameter(torch.tensor(beta))
    layer = empool.SoftPool2d(2, beta=parameter) if given else empool.SoftPool2d(2, beta=beta, trainable=True)
    assert [name for name, _ in layer.named_parameters()] == ["beta"]
    assert not given or layer.beta is parameter
    fixed = empool.SoftPool2d(2, beta=beta).eval()
    torch.testing.assert_close(layer.eval()(images()), fixed(images()))
    expected = fixed(images())
    torch.testing.assert_close(fixed.half().to("meta")(images()), expected, rtol=0, atol=0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        layer.to(dtype).zero_grad()
        layer(images().to(dtype)).square().sum().backward()
        assert layer.beta.grad.dtype == dtype
        assert layer.beta.grad.abs().min() > 0
        sampled(layer, images().to(dtype))
        layer.eval()


def test_what_is_learned_is_made_anew_after_the_meta_device() -> None:
    made = (
        functools.partial(empool.SoftPool2d, 2, beta=[1.0, -2.0, 3.0], trainable=True),
        functools.partial(empool.LearnedRankPool2d, 2, channels=3),
    )
    for make in made:
        with torch.device("meta"):
            layer = make()
        layer.to_empty(device="cpu")
        layer.reset_parameters()
        torch.testing.assert_close(layer.state_dict(), make().state_dict(), rtol=0, atol=0)


def test_more_ranks_than_a_window_has_are_refused() -> None:
    message = "^LearnedRankPool2d: expected ranks of at most 4, the activations of a window, got 9$"
    with pytest.raises(ValueError, match=message):
        empool.LearnedRankPool2d(2, ranks=9)


def test_a_distribution_of_more_ranks_takes_the_place_of_one_of_fewer() -> None:
    layer = empool.RankPool2d(2, distribution=empool.Ordinal((0.5, 0.5)))
    for weights in ((0.5, 0.5), (0.4, 0.3, 0.3), (1.0,)):
        layer.distribution = empool.Ordinal(weights)
        expected = empool.RankPool2d(2, distribution=empool.Ordinal(weights))
        torch.testing.assert_close(sampled(layer, images()), sampled(expected, images()), rtol=0, atol=0)
        torch.testing.assert_close(layer.eval()(images()), expected.eval()(images()), rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_an_output_without_a_gradient_is_one_of_0(training: bool) -> None:
    input = (torch.randperm(32, dtype=torch.float64).reshape(1, 2, 4, 4) + 1).requires_grad_()

    def pooled(input: Tensor) -> Tensor:
        output: Tensor = empool.functional.ensemble_max_pool2d(input, 2, p=0.3, training=training, seed=1)
        return output

    assert torch.autograd.gradcheck(pooled, (input,))
    assert torch.autograd.gradgradcheck(pooled, (input,))


@layers
def test_fake_tensors_leave_nothing_behind(layer: nn.Module) -> None:
    layer = copy.deepcopy(layer)
    plain = not list(layer.parameters())
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs="learned" in repr(layer).lower()):
        for training, device in itertools.product((True, False), ("cpu", "cuda") if plain else ("cpu",)):
            assert layer.train(training)(torch.empty(2, 3, 8, 8, device=device)).shape[:2] == (2, 3)
    if plain:  # Of a layer that has parameters, PyTorch makes none of it itself.
        make_fx(layer, tracing_mode="symbolic")(images())
    assert type(layer.train()(images()).detach()) is Tensor
    assert type(layer.eval()(images()).detach()) is Tensor


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("training", [False, True])
def test_quantised_images_keep_their_scale(training: bool) -> None:
    quantised = torch.quantize_per_tensor(images(), 0.05, 128, torch.quint8)
    layer = empool.EnsembleMaxPool2d(2, p=0.3, return_indices=True, seed=1).train(training)
    output, indices = layer(quantised)
    expected, expected_indices = layer(quantised.dequantize())
    assert (output.q_scale(), output.q_zero_point(), output.dtype) == (0.05, 128, torch.quint8)
    torch.testing.assert_close(output.dequantize(), expected, rtol=0, atol=0.026)
    torch.testing.assert_close(indices, expected_indices, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("training", [False, True])
def test_a_function_takes_quantised_images(training: bool, p: float) -> None:
    quantised = torch.quantize_per_tensor(images(), 0.05, 128, torch.quint8)
    output = empool.functional.ensemble_max_pool2d(quantised, 2, p=p, training=training, seed=1)
    expected = empool.functional.ensemble_max_pool2d(quantised.dequantize(), 2, p=p, training=training, seed=1)
    expected = torch.quantize_per_tensor(expected, 0.05, 128, torch.quint8)
    assert torch.equal(output.int_repr(), expected.int_repr())
    assert p > 0 or torch.equal(output.int_repr(), F.max_pool2d(quantised, 2).int_repr())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_channel")
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_scale_for_each_channel_is_refused_with_what_helps(p: float) -> None:
    scales, zeros = torch.tensor([0.05, 0.1, 0.2]), torch.zeros(3, dtype=torch.int64)
    quantised = torch.quantize_per_channel(images(), scales, zeros, 1, torch.qint8)
    with pytest.raises(TypeError, match=r"^ensemble_max_pool2d: .* convert it with \.dequantize\(\)$"):
        empool.functional.ensemble_max_pool2d(quantised, 2, p=p)
    assert empool.functional.ensemble_max_pool2d(quantised.dequantize(), 2, p=p).shape == (2, 3, 4, 4)


@pytest.mark.filterwarnings("ignore")  # PyTorch's of what it will replace.
def test_a_quantised_model_evaluates() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    if torch.backends.quantized.engine == "none":
        pytest.skip("this PyTorch has no quantised convolution")
    pool = empool.EnsembleMaxPool2d(2, p=0.3)
    net = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 4, 3), pool, nn.Conv2d(4, 4, 1), nn.Flatten())
    net.append(quantization.DeQuantStub()).eval()
    net.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    prepared = quantization.prepare(net)
    prepared(images())
    converted = quantization.convert(prepared)
    assert isinstance(converted[2], empool.EnsembleMaxPool2d)
    expected = net(images())
    assert (converted(images()) - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_fully_sharded_model_trains_as_a_whole_one() -> None:
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this PyTorch has no Gloo")
    fully_shard = getattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard", None)
    if fully_shard is None:
        pytest.skip("this PyTorch shards no module in place")

    def trained(shard: bool) -> list[Tensor]:
        torch.manual_seed(0)
        pools = empool.EnsembleMaxPool2d(2, p=0.3), empool.LearnedRankPool2d(2, start=empool.Average())
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pools[0], nn.Conv2d(4, 4, 3, padding=1), pools[1])
        if shard:
            fully_shard(net, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        before = pools[1].logits.detach().clone()
        for _ in range(2):
            net(images()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert not torch.equal(pools[1].logits.detach(), before)
        return [p.full_tensor().detach() if shard else p.detach() for p in net.parameters()]

    expected = trained(shard=False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.testing.assert_close(trained(shard=True), expected)
    finally:
        dist.destroy_process_group()
