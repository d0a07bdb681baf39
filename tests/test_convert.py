"""Conversion of networks: what is replaced, what is carried over, what is refused, what is found and left."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import empool
from empool.tandem import TandemConv1d, TandemConv2d, TandemConv3d, to_tandem

EMP = empool.EnsembleMax(0.3)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2))
    )


def names(conversion):
    return [name for name, _, _ in conversion]


def test_swaps_the_max_pools_and_says_so():
    net = small()
    old = net[2][0]
    conversion = empool.convert_(net, EMP)
    assert conversion == [("2.0", old, net[2][0])]
    assert repr(net[2][0]) == repr(empool.EnsembleMaxPool2d(3, 2, 1, p=0.3))
    assert isinstance(net[2][1], nn.AvgPool2d)
    assert str(conversion) == (
        "module  was                                                                         is now\n"
        "2.0     MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)  EnsembleMaxPool2d(p=0.3)"
    )
    assert repr(conversion) == str(conversion)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["ensemble:0.3", "max-dropout:0.2", "stochastic", "ordinal:0.7,0.3", "average"])
def test_carries_the_geometry_over(pooling, dims):
    sizes, steps = (3, 2, 3)[:dims], (2, 1, 2)[:dims]
    old = getattr(nn, f"MaxPool{dims}d")(sizes, steps, padding=(1,) * dims, ceil_mode=True)
    net = nn.Sequential(old)
    empool.convert_(net, empool.pooling(pooling))
    assert repr(net[0]) == repr(empool.layer(empool.pooling(pooling), dims, sizes, steps, (1,) * dims, ceil_mode=True))
    input = torch.rand(2, 3, *(8, 7, 6)[:dims])
    assert net(input).shape == old(input).shape


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["ensemble:0.3", "stochastic", "soft:2", "ordinal:0.7,0.3", "average", "max"])
def test_adaptive_layers_are_converted_to_adaptive_ones(pooling, dims):
    output_size = (3, None, 5)[:dims] if dims > 1 else 3
    old = getattr(nn, f"AdaptiveMaxPool{dims}d")(output_size)
    net = nn.Sequential(old)
    conversion = empool.convert_(net, pooling)
    assert names(conversion) == ([] if pooling == "max" else ["0"])
    expected = empool.adaptive_layer(empool.pooling(pooling), dims, output_size)
    assert repr(net[0]) == repr(expected)
    input = torch.rand(2, 3, *(8, 7, 6)[:dims])
    assert net(input).shape == old(input).shape
    torch.testing.assert_close(net.eval()(input), expected.eval()(input), rtol=0, atol=0)


def test_adaptive_layers_keep_indices_and_are_taken_back():
    net = nn.Sequential(nn.AdaptiveMaxPool2d((2, 3), return_indices=True).eval(), nn.AdaptiveAvgPool2d(1))
    input = torch.rand(1, 2, 7, 7)
    output, indices = net[0](input)
    assert names(empool.convert_(net, empool.EnsembleMax(0))) == ["0"]
    assert type(net[0]) is empool.AdaptiveEnsembleMaxPool2d
    torch.testing.assert_close(net[0](input), (output, indices), rtol=0, atol=0)
    back = empool.convert_(net, "max", filter_fn=lambda name, module: True)
    assert names(back) == ["0", "1"]
    assert repr(net[0]) == repr(nn.AdaptiveMaxPool2d((2, 3), return_indices=True))
    assert repr(net[1]) == repr(nn.AdaptiveMaxPool2d(1))


def test_layers_that_differ_in_their_numbers_alone_are_converted():
    net = nn.Sequential(empool.EnsembleMaxPool2d(2, p=[0.1, 0.2], seed=7, tied="channel"), empool.SoftPool2d(2, beta=1))

    def all_of_them(name, module):
        return True

    assert names(empool.convert_(net, "ensemble:0.1", filter_fn=all_of_them)) == ["0", "1"]
    assert net[0].p == 0.1
    assert (net[0].seed, net[0].tied) == (7, "channel")
    assert empool.convert_(net, "ensemble:0.1", filter_fn=all_of_them) == []
    assert names(empool.convert_(net, "ensemble:0.2", filter_fn=all_of_them)) == ["0", "1"]
    assert (net[0].p, net[0].seed) == (0.2, 7)


def test_carries_dilation_indices_phase_and_hooks_over():
    old = nn.MaxPool2d(2, 3, dilation=2, return_indices=True).eval()
    net, seen = nn.ModuleList([old]), []
    handle = old.register_forward_hook(lambda module, _, output: seen.append(module))
    empool.convert_(net, EMP)
    output, indices = net[0](torch.rand(1, 1, 8, 8))
    assert output.shape == indices.shape == (1, 1, 2, 2)
    assert net[0].dilation == 2
    assert not net[0].training
    assert seen == [net[0]]
    handle.remove()
    net[0](torch.rand(1, 1, 8, 8))
    assert len(seen) == 1


def test_p_0_computes_what_the_network_did():
    net, input = small(), torch.randn(2, 3, 16, 16)
    before = net(input)
    empool.convert_(net, empool.EnsembleMax(0))
    torch.testing.assert_close(net(input), before, rtol=0, atol=0)


@pytest.mark.parametrize("filter_fn", [None, lambda name, module: True], ids=["max", "all"])
@pytest.mark.parametrize("strided_convs", [False, True])
@pytest.mark.parametrize("pooling", [EMP, empool.Max(), empool.Average()], ids=str)
def test_converting_twice_changes_nothing(pooling, strided_convs, filter_fn):
    net = small()
    empool.convert_(net, pooling, strided_convs=strided_convs, filter_fn=filter_fn)
    modules = list(net.modules())
    again = empool.convert_(net, pooling, strided_convs=strided_convs, filter_fn=filter_fn)
    assert again == []
    assert str(again) == "nothing to replace"
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))


def test_an_average_that_counts_padding_is_converted_to_one_that_does_not():
    net = nn.Sequential(nn.AvgPool2d(3, 1, 1))
    assert "AvgPool2d" in str(empool.convert_(net, empool.Average(), filter_fn=lambda name, module: True))
    torch.testing.assert_close(net(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4), rtol=0, atol=0)
    assert empool.convert_(net, empool.Average(), filter_fn=lambda name, module: True) == []


def test_distributions_that_are_written_alike_are_told_apart():
    class Shifted(empool.EnsembleMax):
        def probabilities(self, n):
            return (0.0, 1.0)

        def __repr__(self):
            return f"EnsembleMax(p={self.p})"

    net = nn.Sequential(empool.RankPool2d(2, distribution=Shifted(0.5)))
    (replacement,) = empool.convert_(net, empool.EnsembleMax(0.5), filter_fn=lambda name, module: True)
    assert type(replacement.new) is empool.EnsembleMaxPool2d
    assert len(empool.convert_(net, Shifted(0.5), filter_fn=lambda name, module: True)) == 1
    assert empool.convert_(net, Shifted(0.5), filter_fn=lambda name, module: True) == []


def test_filter_names_any_pools():
    net, asked = small(), []

    def averages(name, module):
        asked.append(name)
        return isinstance(module, nn.AvgPool2d)

    assert names(empool.convert_(net, EMP, filter_fn=averages)) == ["2.1"]
    assert asked == ["2.0", "2.1"]
    assert repr(net[2][1]) == repr(empool.EnsembleMaxPool2d(2, p=0.3))
    everything = empool.convert_(net, empool.Max(), filter_fn=lambda name, module: True, strided_convs=True)
    assert names(everything) == ["0", "2.1"]
    assert isinstance(net[2][1], nn.MaxPool2d)


def test_shared_modules_stay_shared():
    pool = nn.MaxPool2d(2)
    block = nn.Sequential(pool)
    net = nn.ModuleDict({"a": pool, "b": block, "c": block})
    conversion = empool.convert_(net, EMP)
    assert names(conversion) == ["a", "b.0", "c.0"]
    assert net["a"] is net["b"][0]
    assert net["b"] is net["c"]
    assert isinstance(net["a"], empool.EnsembleMaxPool2d)


def test_the_model_itself_may_be_the_layer():
    pool, conv = nn.MaxPool2d(3, 2), nn.Conv2d(2, 4, 3, stride=2, padding=1)
    weight = conv.weight
    conversion = empool.convert_(pool, EMP)
    assert repr(pool) == repr(empool.EnsembleMaxPool2d(3, 2, p=0.3))
    assert conversion[0].new is pool
    assert type(conversion[0].old) is nn.MaxPool2d
    assert str(conversion).splitlines()[1].startswith("(the model)  MaxPool2d(kernel_size=3, ")
    assert pool(torch.rand(1, 1, 7, 7)).shape == (1, 1, 3, 3)
    empool.convert_(conv, EMP, strided_convs=True)
    assert type(conv) is TandemConv2d
    assert conv.weight is weight
    assert conv(torch.rand(1, 2, 6, 6)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("options", [{}, {"groups": 2, "bias": False}, {"padding_mode": "circular"}, {"dilation": 2}])
def test_tandem_is_the_pooling_and_then_the_convolution(options, size, dims):
    padding = 2 * options.get("dilation", 1)
    conv = getattr(nn, f"Conv{dims}d")(4, 6, 5, stride=2, padding=padding, **options).eval()
    tandem = to_tandem(conv, EMP)
    assert type(tandem) is (TandemConv1d, TandemConv2d, TandemConv3d)[dims - 1]
    single = getattr(nn, f"Conv{dims}d")(4, 6, 5, stride=1, padding=padding, **options)
    single.load_state_dict(tandem.state_dict())
    input = torch.randn(2, 4, *[size] * dims)
    pooled = empool.layer(EMP, dims, 2, 2, ceil_mode=True).eval()(input)
    torch.testing.assert_close(tandem(input), single(pooled))
    assert tandem(input).shape == conv(input).shape


def test_tandem_of_one_strided_dimension():
    conv = nn.Conv2d(2, 3, (3, 4), stride=(2, 1), padding=(1, 0))
    tandem = to_tandem(conv, empool.Max())
    assert tandem.pool.kernel_size == (2, 1)
    assert tandem(torch.rand(1, 2, 8, 8)).shape == conv(torch.rand(1, 2, 8, 8)).shape == (1, 3, 4, 5)


def test_pretrained_weights_load_into_tandems():
    net = small()
    pretrained = copy.deepcopy(net.state_dict())
    weight = net[0].weight
    conversion = empool.convert_(net, EMP, strided_convs=True)
    assert names(conversion) == ["0", "2.0"]
    assert net[0].weight is weight
    assert str(conversion).splitlines()[1].endswith("  TandemConv2d(EnsembleMaxPool2d(p=0.3))")
    fresh = small()
    empool.convert_(fresh, EMP, strided_convs=True)
    assert fresh.load_state_dict(pretrained)
    torch.testing.assert_close(fresh.state_dict(), pretrained, rtol=0, atol=0)
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(clone.eval()(torch.ones(1, 3, 16, 16)), net.eval()(torch.ones(1, 3, 16, 16)))
        assert clone[0].weight is not weight


def test_converted_network_trains():
    net = nn.Sequential(small(), nn.Flatten(), nn.Linear(16, 2))
    empool.convert_(net, EMP, strided_convs=True)
    net(torch.randn(2, 3, 16, 16)).logsumexp(1).sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


class Padded(nn.Conv2d):
    def forward(self, input):
        return super().forward(F.pad(input, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("module", "pooling", "reason"),
    [
        (nn.Conv2d(2, 2, 2, stride=2), EMP, r"expected a padding of dilation \* \(kernel_size - 1\) / 2"),
        (nn.Conv2d(2, 2, 3, stride=2, padding="valid"), EMP, r"got padding \(0, 0\) with kernel_size \(3, 3\)"),
        (
            Padded(2, 2, 3, stride=2),
            EMP,
            r"expected torch.nn.Conv1d, .* got test_convert.Padded",
        ),
        (nn.FractionalMaxPool2d(2, output_size=2), EMP, "its windows are random"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), empool.Average(), "an average has no indices to return"),
        (empool.LearnedRankPool2d(2), EMP, "its class is not one"),
        (nn.AvgPool2d(2, divisor_override=3), EMP, "its divisor_override has no counterpart"),
        (empool.SoftPool2d(2, trainable=True), EMP, "its parameters would be lost"),
        (nn.MaxPool2d(2, return_indices=True), empool.Average(), "an average has no indices to return"),
        (nn.MaxPool2d(2, dilation=2), empool.Average(), "layer: expected dilation 1 for average pooling, got 2"),
        (type("Mine", (nn.MaxPool2d,), {})(2), EMP, "its class is not one of torch.nn's own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_refuses_by_name_and_changes_nothing(module, pooling, reason):
    net = nn.Sequential(nn.MaxPool2d(2), nn.ModuleDict({"down": module}))
    with pytest.raises(
        ValueError, match=rf"(?s)leave them out with filter_fn\n  1\.down, {type(module).__name__}\(.*{reason}"
    ):
        empool.convert_(net, pooling, filter_fn=lambda name, module: True, strided_convs=True)
    assert isinstance(net[0], nn.MaxPool2d)
    assert net[1]["down"] is module


def test_refuses_what_is_not_a_pooling():
    with pytest.raises(TypeError, match=re.escape("such as empool.EnsembleMax(0.1), got float")):
        empool.convert_(small(), 0.1)


def test_takes_a_spelling():
    net = small()
    assert names(empool.convert_(net, "ensemble:0.3")) == ["2.0"]
    assert repr(net[2][0]) == repr(empool.EnsembleMaxPool2d(3, 2, 1, p=0.3))
    with pytest.raises(ValueError, match="pooling: expected one of max, average, ensemble:P, "):
        empool.convert_(net, "maximum")


def max_pools(net):
    input = torch.randn(8, 4, 8, 8)
    return torch.equal(net(input), F.max_pool2d(input, 2))


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("is_model", [False, True])
def test_a_layer_that_compile_wraps_pools_otherwise_afterwards(is_model, called_before):
    torch.compiler.reset()
    pool = nn.MaxPool2d(2)
    wrapped = torch.compile(pool, backend="eager")
    net = wrapped if is_model else nn.Sequential(wrapped)
    assert not called_before or max_pools(net)
    (replacement,) = empool.convert_(net, EMP)
    assert replacement.name == ("_orig_mod" if is_model else "0._orig_mod")
    assert type(replacement.old) is nn.MaxPool2d
    assert replacement.new is pool
    assert not max_pools(net)
    net.eval()
    input = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(net(input), empool.functional.ensemble_max_pool2d(input, 2, p=0.3, training=False))


def test_a_compiled_network_is_compiled_anew():
    torch.compiler.reset()
    net = torch.compile(nn.Sequential(nn.Identity(), nn.MaxPool2d(2)), backend="eager")
    assert max_pools(net)
    assert names(empool.convert_(net, EMP)) == ["_orig_mod.1"]
    assert not max_pools(net)


class Lists(nn.Module):
    """Holds a layer in its own name and in a list, or in a list alone."""

    def __init__(self):
        super().__init__()
        self.named = nn.MaxPool2d(2)
        self.all = [self.named, {"inner": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3)),)}]
        self.all.append(self.all)

    def forward(self, input):
        return self.all[0](input)


def test_a_layer_that_a_list_holds_too_pools_otherwise_afterwards():
    net = nn.Sequential(Lists())
    with pytest.warns(UserWarning, match=re.escape("0.all.1.inner.0.1 (MaxPool2d(kernel_size=3, ")):
        conversion = empool.convert_(net, EMP)
    assert names(conversion) == ["0.named"]
    assert type(conversion[0].old) is nn.MaxPool2d
    assert net[0].named is net[0].all[0] is conversion[0].new
    assert not max_pools(net)
    # train() and eval() do not reach it, so it would sample in inference.
    assert type(net[0].all[1]["inner"][0][1]) is nn.MaxPool2d
    assert [name for name, _ in conversion.left] == ["0.all.1.inner.0.1"]
    assert conversion.left[0][1].endswith("), which is not registered")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_by_torchscript():
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    traced = torch.jit.trace(nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2)), torch.zeros(1, 1, 8, 8))
    for module in (scripted, traced):
        with pytest.raises(TypeError, match=r"whose forward is Python, got \w+Module; convert the model that it was"):
            empool.convert_(module, EMP)
    net = nn.Sequential(scripted, traced, torch.jit.script(nn.ReLU()), nn.MaxPool2d(2))
    with pytest.warns(UserWarning, match="this max-pooling can't be converted and stays: 0 "):
        conversion = empool.convert_(net, EMP)
    assert names(conversion) == ["3"]
    assert conversion.left == [
        ("0", "calls max_pool2d, compiled by TorchScript"),
        ("1", "calls max_pool2d, adaptive_max_pool2d, compiled by TorchScript"),
    ]


def test_an_exported_program_is_named():
    program = torch.export.export(nn.Sequential(nn.MaxPool2d(2)), (torch.zeros(1, 1, 8, 8),))
    with pytest.raises(TypeError, match="whose forward is Python, got ExportedProgram"):
        empool.convert_(program, EMP)
    with pytest.warns(UserWarning, match=r"stays: 0 \(calls max_pool2d\)"):
        empool.convert_(nn.Sequential(program.module()), EMP)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max")
def test_a_convolution_of_another_library_is_named_in_full():
    from torch.ao import quantization

    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1))
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    prepared = quantization.prepare_qat(net)
    named = r"0, Conv2d\(.*got torch\.ao\.nn\.qat\.modules\.conv\.Conv2d; convert a model before other tools change"
    with pytest.raises(ValueError, match=named):
        empool.convert_(prepared, EMP, strided_convs=True)


def test_children_of_a_layer_are_carried_over():
    pool = nn.MaxPool2d(2)
    pool.observer = nn.Flatten()
    pool.register_forward_hook(lambda module, _, output: module.observer(output))
    net = nn.Sequential(pool)
    empool.convert_(net, EMP)
    assert net(torch.rand(1, 2, 4, 4)).shape == (1, 8)


def test_leaves_other_strides_and_transposed_convolutions():
    net = nn.Sequential(nn.Conv2d(2, 2, 16, stride=16), nn.ConvTranspose2d(2, 2, 3, stride=2), nn.Conv2d(2, 2, 3))
    assert str(empool.convert_(net, EMP, strided_convs=True)) == "nothing to replace"


class Calls(nn.Module):
    def forward(self, input):
        return F.max_pool2d(input, 2)


def test_names_functional_calls():
    net = nn.Sequential(nn.MaxPool2d(2), nn.ModuleDict({"head": Calls()}), nn.FractionalMaxPool2d(2, output_size=2))
    warned = re.escape("can't be converted and stays: 1.head (calls max_pool2d), 2 (FractionalMaxPool2d()); to have")
    with pytest.warns(UserWarning, match=warned):
        conversion = empool.convert_(net, EMP)
    assert conversion.left == [("1.head", "calls max_pool2d"), ("2", "FractionalMaxPool2d()")]
    assert str(conversion).splitlines()[-2:] == [
        "left as it is: 1.head, calls max_pool2d",
        "left as it is: 2, FractionalMaxPool2d()",
    ]


@pytest.mark.parametrize(
    ("name", "pools", "convolutions"),
    [
        # Strided convolutions of a ResNet: the first, and in each of three stages a 3x3 one and the shortcut's.
        ("resnet18", 1, 7),
        ("resnet50", 1, 7),
        ("resnet101", 1, 7),
        ("resnet152", 1, 7),
        ("vgg11", 5, 0),
        ("vgg16_bn", 5, 0),
        ("googlenet", 13, 1),
        ("densenet121", 1, 1),
        ("squeezenet1_1", 3, None),
    ],
)
def test_torchvision(torchvision, name, pools, convolutions):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.device("meta"):
                return torchvision.models.get_model(name, weights=None).eval()

    net = make()
    keys, input = list(net.state_dict()), torch.empty(2, 3, 97, 97, device="meta")
    shape = net(input).shape
    assert len(empool.convert_(net, EMP)) == pools
    if convolutions is None:  # Padded by nothing, so no tandem has outputs of the same size.
        with pytest.raises(ValueError, match=r"features\.0, Conv2d\(3, 64, kernel_size=\(3, 3\), stride=\(2, 2\)\)"):
            empool.convert_(net, EMP, strided_convs=True)
    else:
        assert len(empool.convert_(net, EMP, strided_convs=True)) == convolutions
    assert list(net.state_dict()) == keys
    assert net(input).shape == shape


@pytest.mark.parametrize(
    ("name", "pools", "convolutions"),
    [("resnet50", 1, 7), ("regnetx_002", 0, 9), ("convnext_atto", 0, None)],
)
def test_timm(timm, name, pools, convolutions):
    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False).eval()
    keys, input = list(net.state_dict()), torch.empty(2, 3, 96, 96, device="meta")
    shape = net(input).shape
    conversion = empool.convert_(net, EMP)
    assert len(conversion) == pools
    assert (str(conversion) == "nothing to replace") == (pools == 0)
    if convolutions is None:  # Its windows do not overlap: there is nothing for a pooling to take over.
        with pytest.raises(ValueError, match=r"stages\.1\.downsample\.1, Conv2d\(40, 80, kernel_size=\(2, 2\)"):
            empool.convert_(net, EMP, strided_convs=True)
    else:
        assert len(empool.convert_(net, EMP, strided_convs=True)) == convolutions
    assert list(net.state_dict()) == keys
    assert net(input).shape == shape


def test_torchvision_calls_are_named(torchvision):
    with torch.device("meta"):
        net = torchvision.models.inception_v3(weights=None, init_weights=False)
    with pytest.warns(UserWarning, match=r"Mixed_6a \(calls max_pool2d\), Mixed_7a \(calls max_pool2d\); to have"):
        conversion = empool.convert_(net, EMP)
    assert names(conversion) == ["maxpool1", "maxpool2"]
