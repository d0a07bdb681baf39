"""Sub-networks sampled at test time, and the probability that they are sampled with."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from typing import NamedTuple

import pytest
import torch
from torch import nn

import empool


class TwoClasses(nn.Module):
    """One window for each image, and logits of its output and 0."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.sizes = []

    def forward(self, input):
        self.sizes.append(len(input))
        value = self.pool(input).flatten(1)
        return torch.cat([value, torch.zeros_like(value)], dim=1)


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


# The odds are 4 to 1 for the largest activation and 1 to 1 for the second.
WINDOW = torch.tensor([[[[math.log(4.0), 0.0], [-5.0, -6.0]]]])


def test_the_mean_entropy_and_mutual_information_by_hand():
    net = TwoClasses(empool.EnsembleMaxPool2d(2, p=0.25))
    probs, total, mutual_information = empool.monte_carlo(net, WINDOW.repeat(500, 1, 1, 1), samples=40)
    assert probs.shape == (500, 2)
    assert total.shape == mutual_information.shape == (500,)
    mean = 0.75 * 0.8 + 0.25 * 0.5
    assert probs.mean(0).tolist() == pytest.approx([mean, 1 - mean], abs=0.005)
    # What 40 members leave of the entropy and of the mutual information is a little less than their expectation.
    assert total.mean().item() == pytest.approx(entropy(mean), abs=0.005)
    expected = entropy(mean) - (0.75 * entropy(0.8) + 0.25 * entropy(0.5))
    assert mutual_information.mean().item() == pytest.approx(expected, abs=0.005)
    draws = ((0.8 - probs[:, 0]) / 0.3 * 40).round()
    torch.testing.assert_close(probs[:, 0], 0.8 - 0.3 * draws / 40)
    assert draws.var().item() == pytest.approx(40 * 0.25 * 0.75, rel=0.2)


@pytest.mark.parametrize(("p", "odds"), [(0.0, 0.8), (1.0, 0.5)])
def test_members_that_agree_have_no_mutual_information(p, odds):
    result = empool.monte_carlo(TwoClasses(empool.EnsembleMaxPool2d(2, p=p)), WINDOW, samples=3)
    torch.testing.assert_close(result.probs, torch.tensor([[odds, 1 - odds]]))
    torch.testing.assert_close(result.entropy, torch.tensor([entropy(odds)]))
    torch.testing.assert_close(result.mutual_information, torch.zeros(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "at_once", "sizes"), [(3, 1, [2, 2, 2]), (10, 4, [8, 8, 4]), (3, 8, [6]), (1, 1, [2])]
)
def test_a_forward_pass_holds_the_members_asked_for(samples, at_once, sizes):
    net = TwoClasses(empool.EnsembleMaxPool2d(2, p=0.5))
    empool.monte_carlo(net, WINDOW.repeat(2, 1, 1, 1), samples, at_once=at_once)
    assert net.sizes == sizes


def test_copies_in_one_pass_draw_independently():
    net = TwoClasses(empool.EnsembleMaxPool2d(2, p=0.5))
    probs = empool.monte_carlo(net, WINDOW, samples=1000, at_once=1000).probs
    assert probs[0, 0].item() == pytest.approx(0.65, abs=0.02)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        empool.MaxPoolDropout2d(2, p=0.4),
        nn.Dropout(0.9),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@pytest.mark.parametrize("training", [True, False])
def test_only_pooling_draws_and_phases_are_put_back(training):
    net = network().train(training)
    net[1].train(not training)
    phases = [module.training for module in net.modules()]
    seen = []
    handles = [m.register_forward_hook(lambda m, *_: seen.append((type(m).__name__, m.training))) for m in net]
    buffers = copy.deepcopy(dict(net.named_buffers()))
    result = empool.monte_carlo(net, torch.randn(3, 1, 4, 4), samples=2)
    assert [name for name, is_training in seen if is_training] == ["MaxPoolDropout2d"] * 2
    assert [module.training for module in net.modules()] == phases
    torch.testing.assert_close(dict(net.named_buffers()), buffers, rtol=0, atol=0)
    assert not result.probs.requires_grad
    assert torch.is_grad_enabled()
    for handle in handles:
        handle.remove()


def test_phases_are_put_back_after_an_error():
    net = network().train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        empool.monte_carlo(net, torch.randn(1, 1, 8, 8))
    assert all(module.training for module in net.modules())
    assert torch.is_grad_enabled()


def test_maps_of_logits_and_half_precision():
    net = nn.Sequential(empool.EnsembleMaxPool2d(2, p=0.5), nn.Conv2d(1, 3, 1)).bfloat16()
    probs, total, mutual_information = empool.monte_carlo(net, torch.randn(2, 1, 4, 6).bfloat16(), samples=8, at_once=3)
    assert probs.dtype == torch.float32
    assert probs.shape == (2, 3, 2, 3)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 2, 3))
    assert total.shape == mutual_information.shape == (2, 2, 3)
    assert mutual_information.min() >= 0


def test_a_converted_network_draws_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(16, 3))
    empool.convert_(net, empool.EnsembleMax(0.5), strided_convs=True)
    assert empool.monte_carlo(net, torch.randn(3, 1, 4, 4)).mutual_information.min() > 0


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (
            nn.MaxPool2d(2),
            {},
            "monte_carlo: expected a model with a layer of empool's that samples; see empool.convert_",
        ),
        (network(), {"samples": 0}, "monte_carlo: expected samples of at least 1, got 0"),
        (network(), {"at_once": 0}, "monte_carlo: expected at_once of at least 1, got 0"),
    ],
)
def test_monte_carlo_refuses(net, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        empool.monte_carlo(net, torch.randn(1, 1, 4, 4), **options)


@pytest.mark.parametrize("name", ["samples", "at_once"])
def test_monte_carlo_wants_whole_numbers_of_members(name):
    with pytest.raises(TypeError, match=f"^monte_carlo: expected {name} to be an int, got float$"):
        empool.monte_carlo(network(), torch.randn(1, 1, 4, 4), **{name: 2.5})


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_monte_carlo_wants_a_whole_number_for_its_seed(seed):
    with pytest.raises(TypeError, match=r"^monte_carlo: expected seed to be an int or None, got (float|str|bool)$"):
        empool.monte_carlo(network(), torch.randn(1, 1, 4, 4), seed=seed)


def test_members_are_averaged_where_they_are_whatever_the_default_device():
    images = torch.randn(3, 1, 4, 4)
    net = network()
    with torch.device("meta"):
        probs, *_ = empool.monte_carlo(net, images, 4)
    assert probs.device == images.device


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(empool.EnsembleMaxPool2d(2), nn.Flatten(0)),
            "monte_carlo: expected logits (2, num_classes, ...), got (8,)",
        ),
        (
            empool.EnsembleMaxPool2d(2, return_indices=True),
            "monte_carlo: expected a model that computes logits, got tuple; say by output= where in it they are",
        ),
    ],
)
def test_monte_carlo_wants_logits(net, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        empool.monte_carlo(net, torch.randn(2, 1, 4, 4))


class Head(nn.Module):
    """One window for each image; what `wrap` makes of its output, and nothing before."""

    def __init__(self, wrap=lambda logits: logits, p=0.25):
        super().__init__()
        self.pool = empool.EnsembleMaxPool2d(2, p=p)
        self.wrap = wrap

    def forward(self, input):
        return self.wrap(self.pool(input).flatten(1))


class Pair(nn.Module):
    """Takes two inputs."""

    def __init__(self):
        super().__init__()
        self.head = Head()

    def forward(self, images, shift=0.0):
        return self.head(images) + shift


def test_one_logit_is_the_odds_of_two_classes():
    two = empool.monte_carlo(TwoClasses(empool.EnsembleMaxPool2d(2, p=0.25)), WINDOW.repeat(50, 1, 1, 1), seed=3)
    one = empool.monte_carlo(Head(), WINDOW.repeat(50, 1, 1, 1), seed=3)
    assert one.probs.shape == (50, 1)
    torch.testing.assert_close(one.probs, two.probs[:, :1])
    torch.testing.assert_close(one.entropy, two.entropy)
    torch.testing.assert_close(one.mutual_information, two.mutual_information)
    assert one.mutual_information.min() > 0


def test_a_sigmoid_head_has_one_decision_a_class():
    both = empool.monte_carlo(Head(), WINDOW.repeat(3, 2, 1, 1), head="sigmoid", samples=400, at_once=400)
    assert both.probs.shape == (3, 2)
    assert both.entropy.shape == (3,)
    mean = 0.75 * 0.8 + 0.25 * 0.5
    torch.testing.assert_close(both.probs, torch.full((3, 2), mean), rtol=0, atol=0.03)
    torch.testing.assert_close(both.entropy, torch.full((3,), 2 * entropy(mean)), rtol=0, atol=0.03)
    apart = empool.monte_carlo(Head(), WINDOW, head="softmax", samples=4)
    torch.testing.assert_close(apart.probs, torch.ones(1, 1))  # As asked for: one class of one.


class Named(NamedTuple):
    features: object
    logits: object


@dataclasses.dataclass
class Output:
    out: object


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda x: {"features": x + 9, "logits": x}, None),
        (lambda x: {"out": x, "aux": x + 9}, None),
        (lambda x: {"loss": None, "scores": x}, "scores"),
        (lambda x: {0: x}, 0),
        (lambda x: (x, x + 9), 0),
        (lambda x: [x + 9, x], -1),
        (lambda x: Named(x + 9, x), None),
        (lambda x: Output(x), None),
    ],
    ids=["logits", "out", "key", "int key", "tuple", "list", "named tuple", "dataclass"],
)
def test_logits_inside_the_output(wrap, output):
    expected = empool.monte_carlo(Head(), WINDOW, seed=0)
    torch.testing.assert_close(empool.monte_carlo(Head(wrap), WINDOW, seed=0, output=output), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrap", "output", "got"),
    [
        (lambda x: {"a": x, "b": x}, None, "dict with 'a', 'b'"),
        (lambda x: {"a": x}, "b", "dict with 'a'"),
        (lambda x: (x, x), None, "tuple"),
        (lambda x: (x, x), 2, "tuple"),
        (lambda x: None, None, "NoneType"),
    ],
)
def test_an_output_without_logits_is_refused(wrap, output, got):
    message = f"monte_carlo: expected a model that computes logits, got {got}; say by output= where in it they are"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        empool.monte_carlo(Head(wrap), WINDOW, output=output)
    with pytest.raises(
        TypeError, match=r"^monte_carlo: expected output=None for a model that returns a tensor, got 0$"
    ):
        empool.monte_carlo(Head(), WINDOW, output=0)


class Batch(NamedTuple):
    images: object
    name: str


class OfOne(nn.Module):
    """Takes one argument, whatever it holds."""

    def __init__(self, key):
        super().__init__()
        self.head, self.key = Head(), key

    def forward(self, batch):
        return self.head(batch.images if self.key is None else batch[self.key])


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    ("net", "input"),
    [
        (Pair(), {"images": WINDOW}),
        (Pair(), {"images": WINDOW, "shift": torch.tensor(0.0)}),
        (Pair(), (WINDOW, torch.zeros(1, 1))),
        (OfOne("image"), {"image": WINDOW, "label": "of one"}),
        (OfOne(0), [WINDOW, None]),
        (OfOne(None), Batch(WINDOW, "of one")),
    ],
    ids=["arguments", "scalar", "positional", "mapping", "list", "named tuple"],
)
def test_inputs_of_more_than_a_tensor(net, input, at_once):
    expected = empool.monte_carlo(Head(), WINDOW, 7, seed=0, at_once=at_once)
    torch.testing.assert_close(empool.monte_carlo(net, input, 7, seed=0, at_once=at_once), expected, rtol=0, atol=0)


def test_an_input_without_images_is_refused():
    with pytest.raises(TypeError, match=r"^monte_carlo: expected an input with a tensor \(N, \.\.\.\), got str$"):
        empool.monte_carlo(Head(), "image")


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match=r'^monte_carlo: expected head "softmax", "sigmoid" or None, got \'logits\'$'):
        empool.monte_carlo(Head(), WINDOW, head="logits")


def test_a_seed_repeats_and_leaves_the_generator_as_it_was():
    net, input = network(), torch.randn(3, 1, 4, 4)
    state = torch.get_rng_state()
    first, again, other = (empool.monte_carlo(net, input, 4, seed=seed, at_once=2) for seed in (1, 1, 2))
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.equal(other.probs, first.probs)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    torch.testing.assert_close(empool.monte_carlo(net, input, 4, at_once=2), first, rtol=0, atol=0)


def test_set_p_sets_every_layer_that_has_one():
    shared = empool.EnsembleMaxPool1d(2)
    net = nn.ModuleDict(
        {
            "a": shared,
            "b": shared,
            "c": nn.Sequential(empool.MaxPoolDropout3d(2)),
            "d": empool.StochasticMaxPool2d(2),
            "e": nn.Dropout(0.4),
        }
    )
    assert empool.set_p(net, 0.7) == ["a", "c.0"]
    assert (shared.p, net["c"][0].p, net["d"].drop, net["e"].p) == (0.7, 0.7, 0.5, 0.4)
    assert empool.set_p(shared, 1) == [""]
    assert shared.p == 1.0


def test_set_p_reaches_tandems_and_changes_what_is_computed():
    net = empool.models.create("dfn_mr:8", num_classes=2, pooling=empool.EnsembleMax(0.2), in_channels=1).eval()
    input = torch.randn(1, 1, 8, 8)
    before = net(input)
    assert len(empool.set_p(net, 0.6)) == 8
    after = net(input)
    assert not torch.equal(after, before)
    fresh = empool.models.create("dfn_mr:8", num_classes=2, pooling=empool.EnsembleMax(0.6), in_channels=1).eval()
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(fresh(input), after, rtol=0, atol=0)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_set_p_refuses_what_is_no_probability(p):
    net = empool.EnsembleMaxPool2d(2, p=0.2)
    with pytest.raises(ValueError, match=rf"^set_p: expected p in \[0, 1\], got {p}$"):
        empool.set_p(net, p)
    assert net.p == 0.2


def test_set_p_refuses_a_network_without_such_layers():
    message = "set_p: expected a model with layers that have a p, such as EnsembleMaxPool2d, got none"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        empool.set_p(nn.Sequential(nn.MaxPool2d(2), empool.StochasticPool2d(2)), 0.1)


def test_set_p_sets_the_layers_chosen_by_a_filter():
    net = nn.Sequential(empool.EnsembleMaxPool2d(2), nn.ReLU(), empool.MaxPoolDropout2d(2), empool.EnsembleMaxPool2d(3))
    asked = []

    def chosen(name, module):
        asked.append(name)
        return isinstance(module, empool.EnsembleMaxPool2d) and name != "0"

    assert empool.set_p(net, 0.7, chosen) == ["3"]
    assert asked == ["0", "2", "3"]
    assert (net[0].p, net[2].p, net[3].p) == (0.1, 0.2, 0.7)
    with pytest.raises(
        ValueError, match=r"^set_p: expected filter_fn to choose at least one of the layers that have a p$"
    ):
        empool.set_p(net, 0.7, filter_fn=lambda name, module: False)


@dataclasses.dataclass(frozen=True)
class Second(empool.RankDistribution):
    """A distribution of a user's own, with a p."""

    p: float
    steps: int = 1

    def probabilities(self, n):
        return (1.0,) if n == 1 else (1 - self.p, self.p)


def test_set_p_sets_that_of_a_rank_distribution():
    net = nn.Sequential(
        empool.RankPool2d(2, distribution=empool.MaxDropout(0.1)),
        empool.RankPool2d(2, distribution=empool.Average()),
        empool.RankPool2d(2, distribution=Second(0.1, steps=3)),
    )
    assert empool.set_p(net, 0.7) == ["0", "2"]
    assert net[0].distribution == empool.MaxDropout(0.7)
    assert net[2].distribution == Second(0.7, steps=3)
    expected = empool.functional.ensemble_max_pool2d(WINDOW, 2, p=0.7, training=False)
    torch.testing.assert_close(net[2].eval()(WINDOW), expected, rtol=0, atol=0)


def test_set_p_takes_one_number_a_channel():
    net = nn.Sequential(empool.EnsembleMaxPool2d(2), empool.AdaptiveMaxPoolDropout2d(3))
    p = torch.tensor([0.1, 0.6])
    assert empool.set_p(net, p) == ["0", "1"]
    input = torch.randn(1, 2, 8, 8)
    expected = [empool.functional.ensemble_max_pool2d(input[:, c], 2, p=p[c].item(), training=False) for c in range(2)]
    torch.testing.assert_close(net[0].eval()(input), torch.stack(expected, 1), rtol=0, atol=0)
    empool.set_p(net, [0.25, 0.5])
    assert [layer.p.tolist() for layer in net] == [[0.25, 0.5]] * 2
    with pytest.raises(ValueError, match=r"^set_p: expected p in \[0, 1\], got 1.5$"):
        empool.set_p(net, [0.25, 1.5])
    net.append(empool.RankPool2d(2, distribution=empool.EnsembleMax(0.1)))
    with pytest.raises(TypeError, match=r"^set_p: expected one number for the rank distribution of 2, got a list$"):
        empool.set_p(net, p)
    assert [layer.p.tolist() for layer in net[:2]] == [[0.25, 0.5]] * 2


def test_set_p_makes_no_new_graph():
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    net = nn.Sequential(empool.EnsembleMaxPool2d(2), empool.RankPool2d(2, distribution=empool.MaxDropout(0.1)))
    run = torch.compile(net, backend=backend, fullgraph=True)
    input = torch.randn(1, 2, 8, 8)
    for step in range(12):
        empool.set_p(net, step / 11)
        torch.manual_seed(step)
        sampled = run(input)
        torch.manual_seed(step)
        torch.testing.assert_close(sampled, net(input), rtol=0, atol=0)
    assert len(graphs) == 1


@pytest.mark.parametrize("sample", [False, True])
def test_learned_pooling_is_sampled_as_in_training_only_if_it_samples(sample):
    net = nn.Sequential(empool.LearnedRankPool2d(2, start=empool.Average(), sample=sample), nn.Flatten())
    if not sample:
        with pytest.raises(ValueError, match="expected a model with a layer of empool's that samples"):
            empool.monte_carlo(net, torch.randn(2, 1, 4, 4))
        return
    assert empool.monte_carlo(net, torch.randn(2, 1, 4, 4)).mutual_information.min() > 0


def test_layers_with_a_seed_of_their_own_are_refused():
    """Every sub-network would be the same one, and the result would look certain."""
    net = nn.Sequential(empool.EnsembleMaxPool2d(2, seed=5), nn.Flatten())
    message = "monte_carlo: expected layers without a seed of their own, got one in 0; set its seed to None"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        empool.monte_carlo(net, WINDOW)
    net[0].seed = None
    net[0].generator = torch.Generator()
    empool.monte_carlo(net, torch.randn(2, 1, 4, 4))
    with pytest.raises(ValueError, match="expected layers without a generator of their own, got one in 0; set its"):
        empool.monte_carlo(net, WINDOW, seed=1)
