"""What a layer meets in training: autocast, checkpointing, several processes, accumulation in half precision."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import empool
from cases import METHODS, function, layer
from tolerances import assert_same_bits

stems = pytest.mark.parametrize("stem", METHODS)


@stems
@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_type_alone(dtype: torch.dtype, training: bool, stem: str) -> None:
    call = function(stem, 2)
    arguments = {"seed": 3, "training": training, **METHODS[stem]}
    for given in (dtype, torch.float32):
        input = torch.randn(2, 3, 9, 9, dtype=given, requires_grad=True)
        expected = call(input, 3, 2, 1, **arguments)
        with torch.autocast("cpu", dtype=dtype):
            output = call(input, 3, 2, 1, **arguments)
        assert output.dtype == given
        assert_same_bits(output.detach(), expected.detach())
        (gradient,) = torch.autograd.grad(output.sum(), input)
        assert gradient.dtype == given


def test_autocast_of_a_network() -> None:
    """After a convolution in half precision the pooling is in half precision too."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), empool.EnsembleMaxPool2d(2, p=0.5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.randn(2, 3, 8, 8))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert model[0].weight.grad.dtype == torch.float32
    assert model[0].weight.grad.any()


@stems
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_draws_the_same_again(stem: str, reentrant: bool) -> None:
    """Were the recomputation to draw anew, its gradient would belong to other activations."""
    pool = layer(stem, 2)(2, **METHODS[stem])
    scale = torch.ones(3, 1, 1, requires_grad=True)
    input = (torch.randn(4, 3, 16, 16).abs() + 0.1).requires_grad_()

    def block(input: Tensor) -> Tensor:
        return pool(pool(input * scale) * scale)

    torch.manual_seed(9)
    expected = block(input)
    gradients = torch.autograd.grad(expected.sum(), (input, scale))
    torch.manual_seed(9)
    output = checkpoint(block, input, use_reentrant=reentrant)
    assert_same_bits(output.detach(), expected.detach())
    torch.manual_seed(1234)  # What happens in between does not matter.
    output.sum().backward()
    assert_same_bits((input.grad, scale.grad), gradients)


def _replica(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)  # The same weights and the same input.
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), empool.EnsembleMaxPool2d(2, p=0.5), nn.Flatten())
    model.append(nn.Linear(4 * 16, 2))
    input = torch.randn(8, 1, 8, 8)
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(replica.parameters(), 0.1)
    torch.manual_seed(rank)  # Different draws.
    pooled = model[1](input)
    for _ in range(3):
        optimizer.zero_grad()
        replica(input).square().sum().backward()
        optimizer.step()
    torch.save({"pooled": pooled, "weights": model.state_dict()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_replica, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(one["pooled"], other["pooled"])
    for name, weight in one["weights"].items():
        assert_same_bits(weight, other["weights"][name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_in_half_precision_trains(dtype: torch.dtype) -> None:
    """Four classes told apart by the brightest quarter of an image."""
    model = nn.Sequential(empool.EnsembleMaxPool2d(4, p=0.2), nn.Flatten(), nn.Linear(4, 4)).to(dtype)
    labels = torch.arange(64) % 4
    images = torch.rand(64, 1, 2, 4, 2, 4) * 0.5
    images[torch.arange(64), 0, labels // 2, :, labels % 2] += 1
    images = images.reshape(64, 1, 8, 8).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images).argmax(1) == labels).float().mean() == 1


def test_a_model_with_layers_survives_pickling_in_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), empool.EnsembleMaxPool2d(2, p=0.5))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    other = pickle.loads(pickle.dumps(model))
    torch.manual_seed(0)
    input = torch.randn(2, 3, 8, 8)
    torch.manual_seed(1)
    expected = model(input)
    torch.manual_seed(1)
    assert_same_bits(other(input).detach(), expected.detach())
