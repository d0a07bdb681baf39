"""What only a GPU can show: no synchronisation, graphs, compiled code, memory; the bits are in `test_triton.py`."""

from __future__ import annotations

import copy
import itertools
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import cases
import empool

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _layers(dims: int = 2) -> list[torch.nn.Module]:
    return [
        getattr(empool, f"{name}{dims}d")(3, 2, 1, **arguments)
        for name, arguments in (
            ("EnsembleMaxPool", {"p": 0.3}),
            ("MaxPoolDropout", {"p": 0.3}),
            ("StochasticMaxPool", {"drop": 0.5}),
            ("StochasticPool", {}),
        )
    ]


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
def test_no_synchronisation(training: bool) -> None:
    input = torch.randn(4, 8, 14, 14, device="cuda", requires_grad=True)
    layers = [layer.train(training) for layer in _layers()]
    for layer in layers:
        layer(input)  # Makes the tables, once.
    torch.cuda.synchronize()
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for layer in layers:
            layer(input).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode(previous)


@needs_gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_layer_as_on_cpu(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    images = torch.randn(3, 24, 28, 20).to(dtype).contiguous(memory_format=memory_format)
    for window in ((2, 2, 0), (3, 2, 1)):
        results = []
        for device in ("cpu", "cuda"):
            input = images.to(device).detach().requires_grad_()
            output = empool.functional.ensemble_max_pool2d(input, *window, p=0.3, seed=77)
            output.backward(
                torch.linspace(-1, 1, output.numel(), device="cpu").to(dtype).reshape(output.shape).to(device)
            )
            results.append((output.detach(), input.grad))
        for cuda, cpu in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(cuda.cpu(), cpu, rtol=0, atol=0)


@needs_gpu
def test_maximum_is_max_pool() -> None:
    for window in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
        input = torch.randn(3, 8, 31, 29, device="cuda", requires_grad=True)
        ours = empool.EnsembleMaxPool2d(*window, p=0.0)(input)
        theirs = torch.nn.functional.max_pool2d(input, *window)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@needs_gpu
def test_seed_of_the_default_generator() -> None:
    layer, input = empool.EnsembleMaxPool2d(2, p=0.5), torch.randn(8, 8, 16, 16, device="cuda")
    torch.manual_seed(5)
    first, second = layer(input), layer(input)
    torch.manual_seed(5)
    torch.testing.assert_close(layer(input), first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def compiling(test: Any) -> Any:
    """Mark a test that compiles for the GPU: what PyTorch's own compiler warns of is not ours."""
    for ignored in (
        ".*:DeprecationWarning",
        ".*:FutureWarning:torch",
        ".?isinstance.*LeafSpec:FutureWarning",
        ".*TensorFloat32:UserWarning",
        "The CUDA Graph is empty:UserWarning",
        "dynamo_pgo:UserWarning",
    ):
        test = pytest.mark.filterwarnings(f"ignore:{ignored}")(test)
    return needs_gpu(test)


@compiling
@pytest.mark.parametrize("stem", ["EnsembleMaxPool", "MaxPoolDropout", "StochasticPool"])
def test_compile(stem: str) -> None:
    layer = getattr(empool, f"{stem}2d")(3, 2, 1)
    input = torch.randn(4, 8, 14, 14, device="cuda", requires_grad=True)
    for training in (True, False):
        layer.train(training)
        output = torch.compile(layer, fullgraph=True)(input)
        (gradient,) = torch.autograd.grad(output.sum(), input)
        assert gradient.isfinite().all()
        if not training:
            torch.testing.assert_close(output, layer(input))


QUICK = os.environ.get("EMPOOL_QUICK") == "1"
"""Whether a GPU is lent for a few minutes: what PyTorch compiles takes longest."""


@compiling
@pytest.mark.parametrize("dynamic", [False, True], ids=["one size", "any size"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last][QUICK:], ids=str)
@pytest.mark.parametrize("name", ["ensemble_max_pool2d", "max_pool_dropout2d", "stochastic_pool2d"][: 3 - QUICK])
def test_compiled_bits(name: str, memory_format: torch.memory_format, dynamic: bool) -> None:
    """The kernels that a graph starts itself (`empool._traced`), and the operators where it does not, draw as eager."""
    from torch._inductor.utils import run_and_get_code

    def pool(input: Tensor, seed: Tensor) -> Tensor:
        return getattr(empool.functional, name)(input * 2, 3, 2, 1, seed=seed)

    torch._dynamo.reset()
    compiled = torch.compile(pool, fullgraph=True, dynamic=dynamic)
    seed = torch.tensor(3, device="cuda")
    for shape in ((4, 8, 14, 14), (4, 8, 15, 13)) if dynamic else ((4, 8, 14, 14), (1, 1, 6, 6)):
        input = torch.randn(shape, device="cuda").to(memory_format=memory_format).requires_grad_()
        with torch._inductor.config.patch(force_disable_caches=True):  # A graph from the cache has no sources.
            output, sources = run_and_get_code(compiled, input, seed)
        expected = pool(input, seed)
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        (found,), (wanted,) = (torch.autograd.grad(each, input, gradient) for each in (output, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        if not dynamic and shape[0] == 4:
            assert any("_draw_kernel" in source for source in sources)


@compiling
def test_compiled_by_another_backend() -> None:
    """What a graph starts is started as well where nobody generates code."""
    input, seed = torch.randn(4, 8, 14, 14, device="cuda"), torch.tensor(3, device="cuda")
    compiled = torch.compile(empool.functional.ensemble_max_pool2d, fullgraph=True, backend="aot_eager")
    expected = empool.functional.ensemble_max_pool2d(input, 3, 2, 1, seed=seed)
    torch.testing.assert_close(compiled(input, 3, 2, 1, seed=seed), expected, rtol=0, atol=0)


@compiling
def test_compiled_graph_draws_anew() -> None:
    layer = torch.compile(empool.EnsembleMaxPool2d(2, p=0.5), fullgraph=True, mode="reduce-overhead")
    input = torch.randn(8, 8, 16, 16, device="cuda", requires_grad=True)
    outputs = []
    for _ in range(6):
        torch.compiler.cudagraph_mark_step_begin()
        input.grad = None  # The graph's own memory, which the next replay overwrites.
        output = layer(input)
        output.sum().backward()
        outputs.append(output.detach().clone())
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(outputs))


@needs_gpu
@pytest.mark.parametrize("stem", ["EnsembleMaxPool", "MaxPoolDropout"])
def test_captured_graph_draws_anew(stem: str) -> None:
    layer = getattr(empool, f"{stem}2d")(2, p=0.5)
    input = torch.randn(8, 8, 16, 16, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        layer(input)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(input)
    outputs = []
    for _ in range(3):
        graph.replay()
        outputs.append(output.clone())
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    windows = input.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert ((windows == outputs[2].unsqueeze(-1)).any(-1) | (outputs[2] == 0)).all()


@needs_gpu
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 30e9, reason="needs 30 GB"
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_beyond_32_bits(memory_format: torch.memory_format) -> None:
    images, shape = 33, (64, 1024, 1024)
    assert images * math.prod(shape) > 1 << 31
    input = torch.empty(images, *shape, dtype=torch.bfloat16, device="cuda", memory_format=memory_format).normal_()
    seeds = torch.arange(images, device="cuda")
    geometry, table = ([2, 2], [2, 2], [0, 0], [1, 1], []), torch.tensor([[[3 << 30]]], device="cuda")
    output, drawn = torch.ops.empool.rank_draw(input, seeds, table, [4], *geometry, False, 0)
    grad_input = torch.ops.empool.drawn_scatter(output, drawn, shape[1:], *geometry)
    for image in (0, images - 1):
        # A seed for every image: alone, each is drawn as it is among the others.
        part = input[image : image + 1]
        alone, alone_drawn = torch.ops.empool.rank_draw(part, seeds[image : image + 1], table, [4], *geometry, False, 0)
        torch.testing.assert_close(output[image : image + 1], alone, rtol=0, atol=0)
        torch.testing.assert_close(drawn[image : image + 1], alone_drawn, rtol=0, atol=0)
        expected = torch.ops.empool.drawn_scatter(alone, alone_drawn, shape[1:], *geometry)
        torch.testing.assert_close(grad_input[image : image + 1], expected, rtol=0, atol=0)


# What a review without a GPU was afraid of.


@needs_gpu
@pytest.mark.parametrize("seed", [3, None], ids=["one seed", "the generator's"])
def test_vmap_with_one_seed(seed: int | None) -> None:
    """The seed is expanded over the examples."""
    input = torch.randn(5, 2, 3, 8, 8, device="cuda")

    def pool(images: Tensor) -> Tensor:
        return empool.functional.ensemble_max_pool2d(images, 2, p=0.5, seed=seed)

    torch.cuda.manual_seed(1)
    output = torch.vmap(pool, randomness="same")(input)
    torch.cuda.manual_seed(1)
    first = pool(input[0])
    torch.testing.assert_close(output[0], first, rtol=0, atol=0)
    if seed is not None:
        torch.testing.assert_close(output, torch.stack([pool(images) for images in input]), rtol=0, atol=0)


@needs_gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 2, 1, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_element_is_written(
    dtype: torch.dtype, window: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    input = torch.randn(3, 20, 29, 30, device="cuda").to(dtype).contiguous(memory_format=memory_format)
    input.requires_grad_()

    def poison() -> None:
        torch.full((8 << 20,), math.nan, device="cuda")

    layer = empool.EnsembleMaxPool2d(*window, p=0.3)
    poison()
    output = layer(input)
    gradient = torch.ones_like(output)
    poison()
    (grad_input,) = torch.autograd.grad(output, input, gradient)
    poison()
    mean = layer.eval()(input)
    assert all(tensor.isfinite().all() for tensor in (output, grad_input, mean))


@needs_gpu
def test_the_limit_of_32_bit_indices() -> None:
    """One element less than needs 64-bit indices: 2^31 - 64."""
    input = torch.randn(1, 1, (1 << 25) - 1, 64, dtype=torch.bfloat16, device="cuda").requires_grad_()
    output = empool.functional.ensemble_max_pool2d(input, 2, p=0.75, seed=1)
    (grad_input,) = torch.autograd.grad(output, input, torch.ones_like(output))
    windows = input.detach()[:, :, -3:-1].unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert (windows == output[:, :, -1:].unsqueeze(-1)).any(-1).all()
    assert (grad_input[:, :, -1] == 0).all()
    assert (grad_input[:, :, -3:-1] != 0).sum() == output[:, :, -1:].numel()


def _in_a_new_process(code: str) -> None:
    """Run code where nothing was uploaded or compiled before."""
    code = f"import torch, empool\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@needs_gpu
@pytest.mark.parametrize(
    "layer", ["EnsembleMaxPool2d(3, 2, 1).eval()", "MaxPoolDropout2d(3, 2, 1)", "MaxPoolDropout2d(3, 2, 1).eval()"]
)
def test_first_call_in_a_graph_tree(layer: str) -> None:
    """What the first call makes, inside a graph's capture, stays valid."""
    _in_a_new_process(f"""
f = torch.compile(empool.{layer}, mode="reduce-overhead")
x = torch.randn(2, 8, 14, 14, device="cuda")
for _ in range(4):
    torch.compiler.cudagraph_mark_step_begin()
    y = f(x).clone()
torch.cuda.synchronize()
assert y.isfinite().all()
""")


@needs_gpu
def test_a_new_p_in_a_capture() -> None:
    _in_a_new_process("""
x = torch.randn(2, 8, 14, 14, device="cuda")
empool.functional.max_pool_dropout2d(x, 2, p=0.2)
g = torch.cuda.CUDAGraph()
with torch.cuda.graph(g):
    y = empool.functional.max_pool_dropout2d(x, 2, p=0.3)
g.replay()
torch.cuda.synchronize()
assert (y != 0).float().mean() > 0.5
""")


@needs_gpu
def test_values_of_p_leave_no_memory_behind() -> None:
    layer, input = empool.MaxPoolDropout2d(3, p=0.2), torch.randn(2, 8, 14, 14, device="cuda")
    held = []
    for step in range(64):
        layer.p = (step + 1) / 100
        layer(input)
        held.append(torch.cuda.memory_allocated())
    assert held[-1] == held[20]


@needs_gpu
def test_a_captured_graph_takes_a_new_p() -> None:
    layer, input = empool.MaxPoolDropout2d(2, p=0.0), torch.rand(4, 8, 14, 14, device="cuda") + 1
    layer(input)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(input)
    graph.replay()
    torch.testing.assert_close(output, torch.nn.functional.max_pool2d(input, 2), rtol=0, atol=0)
    layer.p = 1.0
    graph.replay()
    assert not output.any()


@compiling
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_new_p_compiles_nothing(device: str, mode: str | None) -> None:
    """Wherever the layer keeps its table; nor is a CUDA graph recorded with an old one."""
    layer, input = empool.EnsembleMaxPool2d(2, p=0.0).to(device), torch.rand(4, 8, 14, 14, device="cuda")
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    for p in (0.0, 1.0, 0.5):
        layer.p = p
        with torch.compiler.set_stance("default" if p == 0.0 else "fail_on_recompile"):
            for _ in range(3):
                torch.compiler.cudagraph_mark_step_begin()
                output = compiled(input).clone()
        maximum = torch.nn.functional.max_pool2d(input, 2)
        share = float((output < maximum).float().mean())
        assert abs(share - p) < 0.1


@needs_gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        empool.MaxPoolDropout2d(3, 2, 1, p=0.4, seed=5),
        empool.EnsembleMaxPool2d(3, 2, 1, p=torch.linspace(0, 1, 20), seed=5),
        empool.SoftPool2d(3, 2, 1, beta=2.0, seed=5),
        empool.StochasticPool2d(2, seed=5),
        empool.AdaptiveEnsembleMaxPool2d((4, 6), p=0.3, seed=5),
        empool.RankPool2d(3, 2, 1, distribution=empool.TopMean(3), seed=5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_poolings_as_on_cpu(layer: torch.nn.Module, memory_format: torch.memory_format) -> None:
    """Each layer, in both phases, with a number a channel where it takes one."""
    images = torch.randn(3, 20, 15, 14).contiguous(memory_format=memory_format)
    for training in (True, False):
        results = []
        for device in ("cpu", "cuda"):
            input = images.to(device).detach().requires_grad_()
            output = copy.deepcopy(layer).train(training)(input)
            output.backward(torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(device))
            results.append((output.detach().cpu(), input.grad.cpu()))
        for one, other in zip(*results, strict=True):
            exact = {"rtol": 0.0, "atol": 0.0} if training else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(other, one, **exact)


@compiling
def test_compiled_mean_of_whole_windows() -> None:
    """With `ceil_mode` and no padding, windows that are all whole have the table's last row, not its first."""
    layer, input = empool.EnsembleMaxPool2d(3, 2, ceil_mode=True, p=0.3).eval(), torch.randn(2, 8, 13, 13).cuda()
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(input), layer(input))


@needs_gpu
@pytest.mark.parametrize("padding", [0, 1])
def test_average_in_channels_last(padding: int) -> None:
    layer = empool.layer(empool.Average(), 2, 3, 2, padding)
    results = []
    for device in ("cpu", "cuda"):
        input = torch.arange(2.0 * 4 * 9 * 9).view(2, 4, 9, 9).to(device).contiguous(memory_format=torch.channels_last)
        output = layer(input.requires_grad_())
        assert output.is_contiguous(memory_format=torch.channels_last)
        weights = torch.arange(float(output.numel()), device=device).view(output.shape)
        results.append((output.cpu(), torch.autograd.grad((output * weights).sum(), input)[0].cpu()))
    torch.testing.assert_close(results[1], results[0])
