"""The residual networks of the deck: sizes, placement of tandems, survival, training, checkpointing."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import empool
from empool import models
from empool.models import ChannelDrop, ChannelMax2d
from empool.models.stochastic_depth import GatedBlock

# The smallest of each kind, and one with several blocks a stage.
SMALL = ("resnet:8", "preact_resnet:11", "stochastic_depth:8", "dfn_mr:8")
LARGER = ("resnet:14", "preact_resnet:20", "stochastic_depth:14", "dfn_mr:14")
POOLINGS = (None, empool.EnsembleMax(0.3))


def create(spelling, pooling=None, **options):
    torch.manual_seed(0)
    return models.create(spelling, num_classes=3, pooling=pooling, **options)


def parameters(spelling, **options):
    with torch.device("meta"):
        net = models.create(spelling, **options)
    return sum(parameter.numel() for parameter in net.parameters())


def loss_of(net, images, labels):
    return F.cross_entropy(net(images), labels)


# resnet by hand: 16 * 27 + 32, then n blocks a stage of two convolutions and 4 * width, then 650;
# the published figures are 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million.
@pytest.mark.parametrize(
    ("spelling", "count"),
    [
        ("resnet:20", 269_722),
        ("resnet:32", 464_154),
        ("resnet:44", 658_586),
        ("resnet:56", 853_018),
        ("resnet:110", 1_727_962),
        ("resnet:1202", 19_421_274),
        ("stochastic_depth:110", 1_727_962),
    ],
)
def test_resnet_has_the_published_number_of_parameters(spelling, count):
    assert parameters(spelling, num_classes=10) == count


# Published: 1.7 and 10.2 million; the convolutions of 1001 layers alone are 10,175,920.
@pytest.mark.parametrize(("depth", "count"), [(164, 1_703_258), (1001, 10_327_706)])
def test_preact_resnet_has_the_published_number_of_parameters(depth, count):
    assert parameters(f"preact_resnet:{depth}", num_classes=10) == count


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("depth", "options", "count"),
    [
        (56, {"num_classes": 10}, 1_710_426),
        (56, {"num_classes": 100}, 1_716_276),
        (32, {"num_classes": 10, "width": 64}, 14_851_402),
        (14, {"num_classes": 10}, 349_402),
    ],
)
def test_dfn_mr_has_the_published_number_of_parameters(depth, options, count, pooling):
    assert parameters(f"dfn_mr:{depth}", pooling=pooling, **options) == count


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("size", [(8, 8), (9, 15)])
@pytest.mark.parametrize("spelling", SMALL)
def test_any_image_size_and_any_pooling(spelling, size, pooling):
    net = create(spelling, pooling, in_channels=2)
    assert net(torch.randn(3, 2, *size)).shape == (3, 3)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("spelling", LARGER)
def test_gradients_reach_every_parameter(spelling, pooling):
    net = create(spelling, pooling)
    loss_of(net, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])).backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    closed = isinstance(net, models.StochasticDepth)
    assert closed or [name for name, p in net.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("spelling", SMALL)
def test_a_training_step_lowers_the_loss(spelling, pooling):
    net = create(spelling, pooling)
    images, labels = torch.randn(8, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    torch.manual_seed(1)  # The same draws and gates in both passes.
    before = loss_of(net, images, labels)
    before.backward()
    optimizer.step()
    torch.manual_seed(1)
    assert loss_of(net, images, labels) < 0.95 * before


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("spelling", LARGER)
def test_testing_is_deterministic_and_training_with_a_pooling_is_not(spelling, pooling):
    net, images = create(spelling, pooling), torch.randn(4, 3, 8, 8)
    assert torch.equal(net(images), net(images)) == (pooling is None and not spelling.startswith("stochastic"))
    net.eval()
    torch.testing.assert_close(net(images), net(images), rtol=0, atol=0)


@pytest.mark.parametrize("spelling", LARGER)
def test_initial_weights_depend_on_the_seed_alone(spelling):
    published, pooled = create(spelling), create(spelling, empool.EnsembleMax(0.1))
    torch.testing.assert_close(pooled.state_dict(), published.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("spelling", ["resnet:20", "dfn_mr:14"])
def test_convolutions_are_he_normal_by_fan_in(spelling):
    for module in create(spelling).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
            assert module.bias is None


def pools(net):
    return {name: module for name, module in net.named_modules() if isinstance(module, empool.EnsembleMaxPool2d)}


@pytest.mark.parametrize(
    ("spelling", "options", "placed"),
    [
        ("resnet:14", {}, ["2.residual.0", "4.residual.0"]),
        ("stochastic_depth:14", {}, ["2.residual.0", "4.residual.0"]),
        ("preact_resnet:20", {}, ["2.residual.0", "2.projection", "4.residual.0", "4.projection"]),
        ("preact_resnet:20", {"pool_projections": False}, ["2.residual.0", "4.residual.0"]),
        (
            "dfn_mr:14",
            {},
            [
                *("2.lines.0.0", "2.lines.1.0", "2.residuals.0.0", "2.residuals.1.0"),
                *("4.lines.0.0", "4.lines.1.0", "4.residuals.0.0", "4.residuals.1.0"),
            ],
        ),
        (
            "dfn_mr:14",
            {"pool_projections": False},
            ["2.residuals.0.0", "2.residuals.1.0", "4.residuals.0.0", "4.residuals.1.0"],
        ),
    ],
)
def test_every_stride_2_convolution_becomes_a_tandem(spelling, options, placed):
    net = create(spelling, empool.EnsembleMax(0.3), **options)
    assert list(pools(net)) == [f"blocks.{place}.pool" for place in placed]
    for pool in pools(net).values():
        assert (pool.kernel_size, pool.stride, pool.padding, pool.p) == ((2, 2), (2, 2), 0, 0.3)
    published = create(spelling, **options)
    strided = {name for name, m in published.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    left = {name for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    assert strided - left == {f"blocks.{place}" for place in placed}
    assert bool(left) == (options == {"pool_projections": False})


def test_the_deck_counts_eight_stride_2_convolutions():
    with torch.device("meta"):
        assert len(pools(models.create("dfn_mr:56", num_classes=10, pooling=empool.EnsembleMax(0.1)))) == 8


def test_survival_falls_linearly_to_a_half():
    with torch.device("meta"):
        survival = [block.survival for block in models.create("stochastic_depth:110", num_classes=10).blocks]
    assert len(survival) == 54
    assert survival[:2] == pytest.approx([1 - 1 / 108, 1 - 2 / 108])
    assert survival[26] == 0.75
    assert survival[-1] == 0.5
    assert [b.survival for b in create("stochastic_depth:8", last_survival=0.4).blocks] == pytest.approx(
        [0.8, 0.6, 0.4]
    )


def gated(survival):
    torch.manual_seed(0)
    block = GatedBlock(4, 8, 2, None, shortcut=models.stochastic_depth.average)
    block.survival = survival
    return block


def test_one_gate_per_mini_batch_opens_as_often_as_it_survives():
    block, input = gated(0.7), torch.randn(3, 4, 4, 4)
    line = torch.relu(block.line(input))
    is_closed = [torch.equal(block(input), line) for _ in range(500)]
    assert sum(is_closed) / 500 == pytest.approx(0.3, abs=0.06)
    # Batch statistics, so any open gate is open for all images.
    assert not any(torch.equal(image, shortcut) for image, shortcut in zip(gated(1.0)(input), line, strict=True))


def test_testing_scales_the_residual():
    block, input = gated(0.7).eval(), torch.randn(3, 4, 4, 4)
    torch.testing.assert_close(block(input), torch.relu(block.line(input) + 0.7 * block.residual(input)))


def test_shortcut_averages_and_adds_channels_of_zeros():
    input = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert models.stochastic_depth.average(input, 3, 2).flatten().tolist() == [3.0, 0.0, 0.0]
    assert models.resnet.subsample(input, 3, 2).flatten().tolist() == [1.0, 0.0, 0.0]


def test_closed_block_keeps_weight_decay_and_costs_no_statistics():
    block = gated(1e-9)
    block(torch.randn(3, 4, 4, 4)).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in block.parameters())
    assert block.residual[1].num_batches_tracked == 0


def test_merge_and_run_by_hand():
    block = create("dfn_mr:8").blocks[0].eval()
    with torch.no_grad():
        for residual, factor in zip(block.residuals, (1.0, 2.0), strict=True):
            nn.init.dirac_(residual[0].weight)
            nn.init.dirac_(residual[3].weight).mul_(factor)
    first, second = torch.rand(1, 16, 2, 2), torch.rand(1, 16, 2, 2)
    one, two = block(first, second)
    torch.testing.assert_close(one, (first + second) / 2 + first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two, (first + second) / 2 + 2 * second, rtol=1e-4, atol=1e-4)
    block.is_last = True
    torch.testing.assert_close(block(first, second), (first + second) / 2 + first + 2 * second, rtol=1e-4, atol=1e-4)


def trained_once(net, forward=None):
    """Return what one training step computes: loss, gradients, statistics, and what follows in the random stream."""
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(1)
    loss = loss_of(net if forward is None else forward, images, labels)
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()], dict(net.named_buffers()), torch.rand(2)


@pytest.mark.parametrize("spelling", LARGER)
def test_checkpointing_changes_nothing(spelling):
    plain, checkpointed = (
        trained_once(create(spelling, empool.EnsembleMax(0.3), checkpointing=checkpointing))
        for checkpointing in (False, True)
    )
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


# torch.compile looks at the gradient of what goes over a graph break, here a random gate, and is warned of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("spelling", ["resnet:8", "stochastic_depth:8"])
def test_checkpointing_changes_nothing_under_compile(spelling):
    torch.compiler.reset()
    plain = trained_once(create(spelling, empool.EnsembleMax(0.3)))
    net = create(spelling, empool.EnsembleMax(0.3), checkpointing=True)
    torch.testing.assert_close(trained_once(net, torch.compile(net, backend="aot_eager")), plain)


# A compiled graph also counts the parameters that its backward pass reads, which are the same in both.
@pytest.mark.parametrize(("compiled", "share"), [(False, 0.4), (True, 0.65)])
def test_checkpointing_keeps_less_for_the_backward_pass(compiled, share):
    def kept(checkpointing):
        net = create("resnet:14", checkpointing=checkpointing)
        storages = {}
        if compiled:
            torch.compiler.reset()
            net = torch.compile(net, backend="aot_eager", fullgraph=True)

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(torch.randn(4, 3, 16, 16))
        return sum(storages.values())

    assert kept(True) < share * kept(False)


@pytest.mark.parametrize(
    ("spelling", "options", "message"),
    [
        ("resnet:21", {}, "ResNet: expected a depth of 6n+2, such as 8 or 14, got 21"),
        ("resnet:2", {}, "ResNet: expected a depth of 6n+2, such as 8 or 14, got 2"),
        ("preact_resnet:57", {}, "PreActResNet: expected a depth of 9n+2, such as 11 or 20, got 57"),
        ("stochastic_depth:9", {}, "StochasticDepth: expected a depth of 6n+2, such as 8 or 14, got 9"),
        (
            "stochastic_depth:8",
            {"last_survival": 0},
            "StochasticDepth: expected last_survival in (0, 1], got 0",
        ),
        ("dfn_mr:55", {}, "DFNMR: expected a depth of 6n+2, such as 8 or 14, got 55"),
        ("dfn_mr:8", {"width": 0}, "DFNMR: expected width of at least 1, got 0"),
        ("resnet:8", {"in_channels": 0}, "ResNet: expected in_channels of at least 1, got 0"),
        ("cnn", {}, "models: expected a pooling for cnn, got None; without one it would not pool at all"),
    ],
)
def test_refuses(spelling, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        create(spelling, **options)


@pytest.mark.parametrize(
    ("spelling", "batch_size", "rates"),
    [
        ("resnet:56", 128, {0: 0.1, 81.9: 0.1, 82: 0.01, 123: 0.001}),
        ("resnet:110", 128, {0: 0.01, 1.02: 0.01, 1.03: 0.1, 82: 0.01, 163: 0.001}),
        ("preact_resnet:164", 128, {0: 0.01, 2: 0.1, 82: 0.01, 123: 0.001}),
        ("preact_resnet:1001", 64, {0: 0.1, 79.9: 0.1, 80: 0.01, 121: 0.001}),
        ("stochastic_depth:110", 128, {0: 0.1, 250: 0.01, 375: 0.001}),
        ("dfn_mr:56", 64, {0: 0.1, 199.9: 0.1, 200: 0.01, 300: 0.001, 350: 0.0001}),
    ],
)
def test_recipe_is_the_published_one(spelling, batch_size, rates):
    recipe = models.network(spelling).recipe
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (batch_size, 0.9, 1e-4)
    assert {epoch: pytest.approx(recipe.rate(epoch)) for epoch in rates} == rates


def test_channel_max_is_the_maximum_over_its_pathways():
    layer = ChannelMax2d(5, 3, kernel_sizes=(1, 3))
    input = torch.randn(2, 5, 4, 4)
    first = F.conv2d(input[:, :3], layer.pathways[0].weight)
    second = F.conv2d(input[:, 3:], layer.pathways[1].weight, padding=1)
    torch.testing.assert_close(layer(input), torch.maximum(first, second))


def test_channel_drop_leaves_a_random_half_out_of_training():
    drop = ChannelDrop()
    chosen = {tuple(drop(4)) for _ in range(200)}
    assert chosen == set(itertools.combinations(range(4), 2))
    assert {len(drop(5)) for _ in range(20)} == {3}
    assert drop.eval()(4) == [0, 1, 2, 3]


def test_channel_drop_in_channel_max():
    layer = ChannelMax2d(4, 3, kernel_sizes=(1, 3), channel_drop=True)
    input = torch.randn(2, 4, 4, 4)
    single = [F.conv2d(input[:, :2], layer.pathways[0].weight)]
    single.append(F.conv2d(input[:, 2:], layer.pathways[1].weight, padding=1))
    outputs = [layer(input) for _ in range(20)]
    which = [[torch.equal(output, pathway) for pathway in single] for output in outputs]
    assert all(sum(row) == 1 for row in which)
    assert len({tuple(row) for row in which}) == 2
    outputs[0].sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert [bool(pathway.weight.grad.any()) for pathway in layer.pathways] == which[0]
    torch.testing.assert_close(layer.eval()(input), torch.maximum(*single))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 3, (1, 2)), "ChannelMax2d: expected odd kernel_sizes, got (1, 2)"),
        ((2, 3, (1, 3, 5)), "ChannelMax2d: expected at least as many in_channels as pathways, 3, got 2"),
        ((2, 3, ()), "ChannelMax2d: expected kernel_sizes of at least 1, got 0"),
        ((2, 0), "ChannelMax2d: expected out_channels of at least 1, got 0"),
    ],
)
def test_channel_max_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ChannelMax2d(*arguments)


def test_none_is_read_as_no_pooling():
    assert models.read_pooling("none") is None
    assert models.read_pooling("ensemble:0.3") == empool.EnsembleMax(0.3)


def test_resnets_of_timm_have_their_published_parameters_and_one_other_pooling(timm):
    parameters = {"resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160, "resnet152": 60_192_808}
    for name, count in parameters.items():
        with torch.device("meta"):
            drawing = {"pooling": empool.EnsembleMax(0.1)}
            plain, net, tandems = (
                models.create(f"timm:{name}", num_classes=1000, **options)
                for options in ({}, drawing, {**drawing, "strided_convs": True})
            )
        assert sum(parameter.numel() for parameter in net.parameters()) == count
        assert isinstance(plain.maxpool, torch.nn.MaxPool2d)
        assert repr(net.maxpool) == repr(empool.EnsembleMaxPool2d(3, 2, 1, p=0.1))
        for network, layers in ((net, 1), (tandems, 8)):
            assert sum(isinstance(module, empool.EnsembleMaxPool2d) for module in network.modules()) == layers
        assert list(plain.state_dict()) == list(net.state_dict()) == list(tandems.state_dict())


def test_a_network_of_timm_with_nothing_to_replace_says_so(timm):
    with torch.device("meta"):
        for name, strided, message in (
            ("convnext_atto", False, r"timm:convnext_atto has no max-pooling layer to replace; strided_convs"),
            ("vit_tiny_patch16_224", True, "no max-pooling layer to replace and no convolution with stride 2"),
        ):
            with pytest.raises(ValueError, match=message):
                models.create(f"timm:{name}", num_classes=3, pooling=empool.Max(), strided_convs=strided)


def test_the_recipe_of_timms_networks_is_the_standard_one():
    recipe = models.network("timm:resnet50").recipe
    rates = [recipe.rate(epoch) for epoch in range(90)]
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)
    assert dataclasses.replace(recipe, batch_size=1024).rate(29.9) == pytest.approx(0.4)
    assert dataclasses.replace(recipe, batch_size=64, epochs=9).rate(3) == pytest.approx(0.0025)
