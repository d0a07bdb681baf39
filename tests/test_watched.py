"""Whatever watches a call sees it: tracers, compiled transforms, tensor subclasses, modes, distributed tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jvp
from torch.utils._python_dispatch import TorchDispatchMode

import empool
from empool import _private, functional
from tolerances import assert_same_bits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
INPUT = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), empool.EnsembleMaxPool2d(2, p=0.5), empool.SoftPool2d(2, beta=2)
    )


def test_torch_jit_trace() -> None:
    net = _net()
    traced = torch.jit.trace(net.eval(), INPUT)
    torch.testing.assert_close(traced(INPUT + 1), net(INPUT + 1))
    traced = torch.jit.trace(net.train(), INPUT, check_trace=False)
    assert not torch.equal(traced(INPUT), traced(INPUT))
    nodes = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {"empool::rank_draw", "empool::value_draw"} <= nodes


def test_tensorboards_graph() -> None:
    board = pytest.importorskip("torch.utils.tensorboard._pytorch_graph")
    graph, _ = board.graph(_net().eval(), INPUT)
    assert {"empool::rank_mean", "empool::value_mean"} <= {node.op for node in graph.node}


def test_compiled_autograd() -> None:
    from torch._dynamo import compiled_autograd

    weight = INPUT.clone().requires_grad_()
    for layer in (empool.EnsembleMaxPool2d(2, p=0.5), empool.EnsembleMaxPool2d(2, p=0.5).eval(), empool.SoftPool2d(2)):
        layer.seed = 3
        (expected,) = torch.autograd.grad(layer(weight).square().sum(), weight)
        weight.grad = None
        with compiled_autograd._enable(torch.compile(backend="eager")):
            layer(weight).square().sum().backward()
        torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("phase", ["training", "testing", "soft"])
def test_compiled_transforms(phase: str) -> None:
    def pool(input: Tensor) -> Tensor:
        if phase == "soft":
            return functional.soft_pool2d(input, 2, training=False)
        return functional.ensemble_max_pool2d(input, 2, p=0.3, seed=4, training=phase == "training")

    transforms: list[Callable[[Tensor], Any]] = [
        lambda x: jvp(pool, (x,), (x.cos(),))[1],
        lambda x: jacfwd(pool)(x),
        lambda x: hessian(lambda z: pool(z).square().sum())(x),
        lambda x: grad(lambda z: pool(z).square().sum())(x),
    ]
    for transform in transforms:
        compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(INPUT), transform(INPUT))


class _Named(Tensor):
    """A tensor that notes which functions it is given to."""

    seen: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_subclass_that_overrides_functions() -> None:
    _Named.seen.clear()
    input = INPUT.as_subclass(_Named)
    for pooled in (
        functional.ensemble_max_pool2d(input, 2, p=0.5, seed=3),
        empool.EnsembleMaxPool2d(2, p=0.5, seed=3)(input),
    ):
        assert type(pooled) is _Named
        assert_same_bits(pooled.as_subclass(Tensor), functional.ensemble_max_pool2d(INPUT, 2, p=0.5, seed=3))
    assert _Named.seen.count("ensemble_max_pool2d") == 2


def test_a_dispatch_mode_sees_the_operator() -> None:
    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.name())
            return func(*args, **(kwargs or {}))

    input = INPUT.clone().requires_grad_()
    with Seen() as seen:
        functional.ensemble_max_pool2d(input, 2, p=0.5).sum().backward()
    assert {"empool::rank_draw", "empool::drawn_scatter"} <= set(seen.names)


def test_a_profiler_sees_the_operators() -> None:
    input = INPUT.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as seen:
        functional.ensemble_max_pool2d(input, 2, p=0.5).sum().backward()
    names = {event.key for event in seen.key_averages()}
    assert {"empool::rank_draw", "empool::drawn_scatter"} <= names


def test_what_is_missing_from_pytorch_is_named_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_private, "_torch", _private._Torch())
    monkeypatch.delattr(torch._C, "_len_torch_dispatch_stack")
    with pytest.raises(ImportError, match=r"torch._C._len_torch_dispatch_stack is missing from PyTorch"):
        functional.ensemble_max_pool2d(INPUT, 2)


def test_private_parts_of_pytorch_are_named_in_one_file() -> None:
    """The lab, which the core doesn't need, is free to use documented modules such as torch._dynamo.config."""
    private = re.compile(r"(?<!`)torch(\.\w+)*\._[a-zA-Z]\w*|from torch[\w.]* import .*\b_[a-zA-Z]\w*")
    named_in_docs = "torch.func._random"
    root, found = Path(empool.__file__).parent, []
    for path in root.rglob("*.py"):
        if path.name in ("_private.py",) or path.is_relative_to(root / "lab"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            code = line.partition("#")[0]
            if (used := private.search(code)) and named_in_docs not in used[0]:
                found.append(f"{path.name}: {used[0]}")
    assert not found


def _worker(rank: int, meeting: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for placement in (Shard(0), Replicate()):
            for layer in (empool.EnsembleMaxPool2d(2, p=0.5), empool.StochasticPool2d(3, 2, 1), empool.SoftPool2d(2)):
                for training in (True, False):
                    layer.train(training)
                    torch.manual_seed(7)
                    whole = images.clone().requires_grad_()
                    expected = layer(whole)
                    expected.square().sum().backward()
                    torch.manual_seed(7)
                    given = distribute_tensor(images, mesh, [placement]).requires_grad_()
                    pooled = layer(given)
                    assert isinstance(pooled, DTensor)
                    assert pooled.placements == (placement,)
                    assert_same_bits(pooled.full_tensor().detach(), expected.detach())
                    pooled.square().sum().backward()
                    assert_same_bits(given.grad.full_tensor(), whole.grad)
        with pytest.raises(ValueError, match="expected a batched DTensor that is replicated or sharded by images"):
            layer(distribute_tensor(images, mesh, [Shard(1)]))
    finally:
        dist.destroy_process_group()


def test_a_distributed_tensor_draws_as_a_whole_one(tmp_path: Path) -> None:
    """Five images on two processes: three and two, each with the random numbers of its place in the batch."""
    torch.multiprocessing.spawn(_worker, args=(tmp_path / "meeting",), nprocs=2)
