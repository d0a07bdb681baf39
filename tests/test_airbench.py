"""The network of airbench, its published recipe, and the plain transcription in benchmarks/."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import empool
from empool import models
from empool.models.airbench import RECIPE, Airbench, AirbenchRecipe, whitening

pytest.importorskip("empool.lab.train.loop", reason="needs the lab")
from empool.lab.data.sets import DataSet, Split
from empool.lab.study.run import RunConfig
from empool.lab.train.batches import Batches, Normaliser
from empool.lab.train.loop import fit

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def _network(widths: str = "8-8-16", pooling: str = "ensemble:0.3") -> Airbench:
    torch.manual_seed(0)
    network = models.create(f"airbench:{widths}", num_classes=10, pooling=empool.pooling(pooling))
    assert isinstance(network, Airbench)
    return network


def test_the_registry_reads_widths() -> None:
    network = _network("32-64-64")
    assert [group.conv2.out_channels for group in network.groups] == [32, 64, 64]  # type: ignore[union-attr]
    default = models.create("airbench", num_classes=10, pooling=empool.Max())
    assert [group.conv2.out_channels for group in default.groups] == [64, 128, 128]  # type: ignore[union-attr, operator]
    assert default(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    "spelling", ["airbench:", "airbench:64", "airbench:64-128", "airbench:0-8-8", "airbench:a-b-c"]
)
def test_other_widths_are_refused(spelling: str) -> None:
    with pytest.raises(ValueError, match="three widths"):
        models.create(spelling, num_classes=10, pooling=empool.Max())


def test_every_pooling_layer_is_the_one_asked_for() -> None:
    pools = [module for module in _network().modules() if isinstance(module, empool.EnsembleMaxPool2d)]
    assert [(pool.kernel_size, pool.p) for pool in pools] == [(2, 0.3)] * 3 + [(3, 0.3)]


def test_the_first_convolution_whitens_patches() -> None:
    base = torch.randn(64, 3, 34, 34, generator=torch.Generator().manual_seed(0))
    images = F.avg_pool2d(base, 3, 1)  # neighbours are correlated, as in photographs
    network = _network()
    network.prepare_(images)
    maps = F.conv2d(images, network.whiten.weight)[:, :12]
    flat = maps.movedim(1, -1).reshape(-1, 12)
    covariance = flat.T @ flat / len(flat)
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.05)
    torch.testing.assert_close(network.whiten.weight[12:], -network.whiten.weight[:12])
    assert not network.whiten.weight.requires_grad


def test_whitening_takes_the_first_images_alone() -> None:
    images = torch.randn(5001, 1, 4, 4)
    torch.testing.assert_close(whitening(images), whitening(images[:5000]))


def test_the_published_rates() -> None:
    assert RECIPE.sgd_rate == pytest.approx(11.5 / (1024 * (1 + 1 / 0.15)))
    assert [RECIPE.factor(step, 100) for step in (0, 23, 100)] == pytest.approx([0.2, 1, 0.07])
    assert RECIPE.slow_share(50, 100) == pytest.approx(0.95**5 / 8)
    fast, rest = RECIPE.groups(_network())
    assert fast["lr"] == pytest.approx(64 * RECIPE.sgd_rate)
    for group in (fast, rest):  # decoupled: the product is that of every group
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.0153 / (1 + 1 / 0.15))  # type: ignore[operator]
    assert [len(group["params"]) for group in (fast, rest)] == [6, 8]  # type: ignore[arg-type]


def test_the_first_bias_is_trained_for_three_epochs() -> None:
    network = _network()
    trained = []
    for epoch in range(5):
        RECIPE.begin_epoch(network, epoch)
        trained.append(network.whiten.bias.requires_grad)  # type: ignore[union-attr]
    assert trained == [True, True, True, False, False]


def test_the_transcription_takes_the_steps_of_torch_s_sgd() -> None:
    airbench, on_device = pytest.importorskip("airbench"), pytest.importorskip("on_device")
    arrays = on_device.synthetic(64, 10)
    data = airbench.prepare(arrays["train_images"], arrays["train_labels"], "cpu", "float32")
    trainer = airbench.Trainer("airbench:8-8-16", "max", capacity=64, batch_size=32)
    trainer.start(data, seed=0, steps=6)
    trainer.network.train()
    twin = _network(pooling="max")
    twin.load_state_dict(trainer.network.state_dict())
    groups = RECIPE.groups(twin)
    for group in groups:
        group["weight_decay"] = group["weight_decay"] * 32 / 1024  # type: ignore[operator]
    optimizer = torch.optim.SGD(groups, lr=1, momentum=0.85, nesterov=True)
    object.__setattr__(trainer, "recipe", type(RECIPE)(batch_size=32))
    highest = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(0)
    for epoch in range(3):
        steps = trainer.begin_epoch(data, epoch, None, generator)
        for step in range(steps):
            trainer.step_function(True)()
            images = data.plain[trainer.order[step]].permute(0, 3, 1, 2)
            labels = data.labels[trainer.order[step]]
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * RECIPE.factor(2 * epoch + step, 6)
            optimizer.zero_grad()
            F.cross_entropy(twin(images), labels, label_smoothing=0.2, reduction="sum").backward()
            optimizer.step()
    for (name, ours), theirs in zip(trainer.network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_mirror_alternates_and_the_shift_reflects() -> None:
    airbench = pytest.importorskip("airbench")
    images = torch.arange(3 * 32 * 32, dtype=torch.uint8).view(1, 32, 32, 3).expand(8, -1, -1, -1)
    data = airbench.prepare(images, torch.zeros(8, dtype=torch.int64), "cpu", "float32")
    trainer = airbench.Trainer("airbench:8-8-8", "max", capacity=8, batch_size=4)
    flips = torch.tensor([True, False] * 4)
    for epoch in range(2):
        trainer.begin_epoch(data, epoch, flips, torch.Generator().manual_seed(epoch))
        shifted = [data.padded[:, y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
        for image in range(8):
            mirrored = bool(flips[image]) != (epoch == 1)
            expected = [part[image].flip(1) if mirrored else part[image] for part in shifted]
            assert any(bool((trainer.images[image] == one).all()) for one in expected)


def test_the_lab_trains_as_the_transcription_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    airbench, on_device = pytest.importorskip("airbench"), pytest.importorskip("on_device")
    seed, recipe = 3, AirbenchRecipe(epochs=5, batch_size=32)
    arrays = on_device.synthetic(100, 20)
    train, test = (
        Split(*(torch.as_tensor(arrays[f"{name}_{what}"]) for what in ("images", "labels")))
        for name in ("train", "test")
    )
    mean, std = (tuple(255 * value for value in values) for values in (airbench.MEAN, airbench.STD))
    data = DataSet("tiny", train, test, classes=tuple("abcdefghij"), mean=mean, std=std, fingerprint="f1")
    config = RunConfig("tiny", "f1", "airbench:8-8-16", "max", seed, None, None, recipe)
    record = fit(config, data, tmp_path)

    trainer = airbench.Trainer("airbench:8-8-16", "max", capacity=100, batch_size=32)
    object.__setattr__(trainer, "recipe", recipe)
    normaliser = Normaliser(mean, std, "cpu")
    batches = Batches(data.train, config, normaliser)

    def same_images(data: object, epoch: int, flips: object, generator: object) -> int:
        batches.epoch = epoch
        for step, (images, labels) in enumerate(batches):
            place = slice(32 * step, 32 * step + 32)
            trainer.images[place], trainer.labels[place] = images.permute(0, 2, 3, 1), labels
            trainer.order[step] = torch.arange(32) + 32 * step
        trainer.place.zero_()
        return len(batches)

    monkeypatch.setattr(trainer, "begin_epoch", same_images)
    images, tests = (
        airbench.prepare(arrays[f"{name}_images"], arrays[f"{name}_labels"], "cpu", "float32")
        for name in ("train", "test")
    )
    trainer.train(images, recipe.epochs, True, seed)
    fitted, tested = (on_device.scores(trainer.logits(of.plain), of.labels) for of in (images, tests))
    assert record["train_loss"] == pytest.approx(fitted["nll"], rel=2e-3)
    assert record["test_loss"] == pytest.approx(tested["nll"], rel=2e-3)
    assert record["test_error"] == pytest.approx(tested["error"])
    weights = torch.load(tmp_path / "max" / str(seed) / "last.ckpt")["state_dict"]
    for name, value in trainer.network.named_parameters():
        torch.testing.assert_close(weights[f"network.{name}"], value, rtol=1e-2, atol=1e-3, check_stride=False)
