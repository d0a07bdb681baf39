"""`empool.recalibrate_`: batch normalisation's statistics in inference mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import empool


def _model(p: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), empool.EnsembleMaxPool2d(2, p=p), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_the_statistics_are_those_of_the_expectation() -> None:
    model = _model()
    images = torch.randn(32, 2, 9, 9)
    assert empool.recalibrate_(model, [images]) is model
    pooled = model[1].eval()(model[0](images))
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, pooled.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, pooled.var((0, 2, 3)))


def test_batches_count_by_their_size_and_labels_are_left_out() -> None:
    model = _model()
    images = torch.randn(10, 2, 9, 9)
    empool.recalibrate_(model, [(images[:8], torch.zeros(8)), [images[8:], None]])
    pooled = model[1].eval()(model[0](images))
    torch.testing.assert_close(model[2].running_mean, pooled.mean((0, 2, 3)))


def test_modes_momenta_weights_and_gradients_stay() -> None:
    model = _model()
    model.train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.named_parameters()}
    empool.recalibrate_(model, [torch.randn(4, 2, 9, 9)])
    assert [module.training for module in model] == [False, True, True, True]
    assert model[2].momentum == 0.1
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        assert value.grad is None


def test_a_failure_leaves_the_statistics_as_they_were() -> None:
    model = _model()
    model(torch.randn(4, 2, 9, 9))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def broken() -> object:
        yield torch.randn(4, 2, 9, 9)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        empool.recalibrate_(model, broken())  # type: ignore[arg-type]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert model[2].momentum == 0.1
    assert model.training


def test_it_removes_the_variance_shift() -> None:
    images = torch.randn(256, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    model = _model()
    for _ in range(60):
        model(images)
    model.eval()
    model[3] = nn.Identity()
    shifted = model(images).var().item()
    empool.recalibrate_(model, [images])
    assert shifted < 0.9
    assert model(images).var().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("model", "batches", "error", "message"),
    [
        (nn.Sequential(nn.ReLU()), [torch.zeros(1)], ValueError, "batch normalisation that keeps running statistics"),
        (nn.BatchNorm1d(2, track_running_stats=False), [torch.zeros(2, 2)], ValueError, "keeps running statistics"),
        (nn.BatchNorm1d(2), [], ValueError, "at least one batch"),
        (nn.BatchNorm1d(2), ["images"], TypeError, "batches of tensors, got str"),
        (nn.BatchNorm1d(2), [()], TypeError, "batches of tensors, got tuple"),
        (nn.BatchNorm1d(2), torch.zeros(4, 2), TypeError, "an iterable of batches, got a tensor"),
    ],
)
def test_what_is_refused(model: nn.Module, batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"recalibrate_: .*{message}"):
        empool.recalibrate_(model, batches)
