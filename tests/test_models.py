"""The networks: shapes, sizes, what they share between poolings, and what they refuse."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

import empool
from empool import models
from empool.models.cnn import CNN, RECIPE, CNNRecipe
from empool.models.recipe import Recipe

POOLINGS = ("max", "average", "stochastic", "ensemble:0.1", "max-dropout:0.2", "stochastic-max:0.5", "ordinal:0.7,0.3")


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# Three stages halve the image, rounding up: 8 -> 1, 28 -> 4, 32 -> 4, 64 -> 8; 9x20 -> 2x3.
@pytest.mark.parametrize(
    ("size", "features"), [(8, 8), (28, 128), (32, 128), (64, 512), ((9, 20), 48)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("pool_size", [2, 3])
def test_cnn_takes_every_image_size(size, features, pool_size):
    options = {"image_size": size, "width": 8, "pool_size": pool_size}
    net = models.create("cnn", num_classes=7, pooling=empool.EnsembleMax(0.1), in_channels=1, **options)
    height, width = (size, size) if isinstance(size, int) else size
    assert net(torch.randn(2, 1, height, width)).shape == (2, 7)
    assert net.classifier.in_features == features


def test_cnn_has_the_parameters_counted_by_hand():
    net = models.create("cnn", num_classes=10, pooling=empool.Max(), width=64)
    convolutions = 64 * 3 * 25 + 2 * 64 * 64 * 25
    normalisation = 3 * 2 * 64
    classifier = 10 * (64 * 4 * 4) + 10
    assert sum(p.numel() for p in net.parameters()) == convolutions + normalisation + classifier == 220_234


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cnn_pools_three_times_with_the_pooling_asked_for(pooling):
    asked = empool.pooling(pooling)
    net = models.create("cnn", num_classes=3, pooling=asked, width=4)
    expected = repr(empool.layer(asked, 2, kernel_size=3, stride=2, padding=1))
    assert [repr(module) for module in net.modules()].count(expected) == 3
    net = models.create("cnn", num_classes=3, pooling=asked, width=4, pool_size=2)
    expected = repr(empool.layer(asked, 2, kernel_size=2, stride=2, ceil_mode=True))
    assert [repr(module) for module in net.modules()].count(expected) == 3


def test_create_reads_a_spelling_of_a_pooling():
    pools = [m for m in models.create("cnn", num_classes=3, pooling="ensemble:0.3").modules() if hasattr(m, "p")]
    assert [type(pool) for pool in pools if pool.p == 0.3] == [empool.EnsembleMaxPool2d] * 3
    plain = models.create("resnet:8", num_classes=3, pooling="none")
    assert repr(plain) == repr(models.create("resnet:8", num_classes=3))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_initial_weights_depend_on_the_seed_alone(pooling):
    torch.manual_seed(3)
    reference = models.create("cnn", num_classes=3, pooling=empool.Max(), width=4).state_dict()
    torch.manual_seed(3)
    other = models.create("cnn", num_classes=3, pooling=empool.pooling(pooling), width=4).state_dict()
    torch.testing.assert_close(other, reference, rtol=0, atol=0)


def test_normalisation_and_dropout_are_what_the_recipe_names():
    def kinds(**options):
        net = models.create("cnn", num_classes=3, pooling=empool.Max(), width=4, **options)
        return {type(module) for module in net.modules()}, net

    assert nn.BatchNorm2d in kinds(normalisation="batch")[0]
    local, _ = kinds(normalisation="local")
    assert nn.LocalResponseNorm in local
    assert nn.BatchNorm2d not in local
    plain, net = kinds(normalisation="none", dropout=0.25)
    assert not plain & {nn.BatchNorm2d, nn.LocalResponseNorm}
    assert net.dropout.p == 0.25


KNOWN = "cnn, dfn_mr:DEPTH, preact_resnet:DEPTH, resnet:DEPTH, stochastic_depth:DEPTH, airbench:W-W-W, timm:NAME"


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("lenet", f'models: expected one of {KNOWN}, got "lenet"'),
        ("", f'models: expected one of {KNOWN}, got ""'),
        ("cnn:3", 'models: expected "cnn" without a depth, got "cnn:3"'),
    ],
)
def test_create_names_the_known_models(spelling, message):
    with pytest.raises(ValueError, match=exactly(message)):
        models.create(spelling, num_classes=3, pooling=empool.Max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "CNN: expected num_classes of at least 1, got 0"),
        ({"width": 0}, "CNN: expected width of at least 1, got 0"),
        ({"image_size": (8, 0)}, "CNN: expected image_size of at least 1, got 0"),
        ({"normalisation": "layer"}, 'CNN: expected normalisation to be one of batch, local, none, got "layer"'),
        ({"dropout": 1.0}, "CNN: expected dropout in [0, 1), got 1.0"),
        ({"pool_size": 4}, "CNN: expected pool_size 2 or 3, got 4"),
    ],
)
def test_cnn_refuses(options, message):
    with pytest.raises(ValueError, match=exactly(message)):
        models.create("cnn", **{"num_classes": 3, "pooling": empool.Max(), **options})


def test_create_refuses_an_option_that_the_model_does_not_have():
    with pytest.raises(TypeError, match=r"models: cnn has no option groups; it has dropout, image_size, normalisation"):
        models.create("cnn", num_classes=3, pooling=empool.Max(), groups=2)


def test_the_registry_takes_networks_with_a_depth(monkeypatch):
    def build(num_classes, pooling, in_channels, depth, growth=1):
        return nn.Linear(in_channels, num_classes * depth * growth)

    monkeypatch.setitem(models._NETWORKS, "deep", models.Network(build, Recipe(), depths="6n+2"))
    assert models.create("deep:8", num_classes=3, pooling=empool.Max(), growth=2).out_features == 48
    assert "deep:DEPTH" in models.names()
    for spelling in ("deep", "deep:", "deep:x", "deep:-8"):
        with pytest.raises(ValueError, match=f'models: expected "deep:DEPTH", DEPTH being 6n\\+2, got "{spelling}"'):
            models.network(spelling)


def test_every_network_says_what_it_assumes():
    for known in models._NETWORKS.values():
        assert known.assumptions
        assert all(sentence.endswith(".") for sentence in known.assumptions)


def test_recipe_fields_are_options_of_the_network():
    own = {field.name for field in dataclasses.fields(CNNRecipe)} - {field.name for field in dataclasses.fields(Recipe)}
    assert own == {"width", "normalisation", "dropout", "pool_size"}
    assert models.network("cnn").options() == own | {"image_size"}
    net = CNN(num_classes=3, pooling=empool.Max())
    assert net.stages[0][0].out_channels == RECIPE.width


def test_cosine_schedule():
    recipe = Recipe(epochs=10, learning_rate=0.4, schedule="cosine", warmup=2)
    rates = [recipe.rate(epoch) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-12)


def test_step_schedule():
    recipe = Recipe(epochs=40, learning_rate=1.0, schedule="step", milestones=(0.5, 0.75), decay=0.1)
    rates = [recipe.rate(epoch) for epoch in (0, 19.9, 20, 29.9, 30, 40)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_is_shortened_in_short_runs():
    recipe = Recipe(epochs=5, learning_rate=1.0, warmup=5)
    assert recipe.rate(0.5) == pytest.approx(0.5)
    assert recipe.rate(1) == 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "Recipe: expected epochs of at least 1, got 0"),
        ("batch_size", -1, "Recipe: expected batch_size of at least 1, got -1"),
        ("learning_rate", float("nan"), "Recipe: expected learning_rate of at least 0, got nan"),
        ("schedule", "linear", 'Recipe: expected schedule "cosine" or "step", got "linear"'),
        ("milestones", (0.5, 1.0), "Recipe: expected milestones between 0 and 1, got (0.5, 1.0)"),
    ],
)
def test_recipe_refuses(field, value, message):
    with pytest.raises(ValueError, match=exactly(message)):
        Recipe(**{field: value})
