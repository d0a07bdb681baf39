"""A trained network as an ensemble of sub-networks, each given by one set of samples; and their probability p."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from empool.distributions import probability
from empool.modules._layer import Pool
from empool.modules._methods import Number, Ranked


class MonteCarlo(NamedTuple):
    """What `monte_carlo` computes.

    Attributes:
        probs: mean probabilities of the sub-networks, ``(N, num_classes, ...)``.
        entropy: entropy of these means, in nats, ``(N, ...)``: the whole uncertainty.
        mutual_information: the entropy minus the sub-networks' mean entropy, in nats, ``(N, ...)``: the part of the
            uncertainty that is disagreement between sub-networks.
    """

    probs: Tensor
    entropy: Tensor
    mutual_information: Tensor


@torch.no_grad()
def monte_carlo(
    model: nn.Module,
    input: Any,
    samples: int = 32,
    *,
    at_once: int = 1,
    seed: int | None = None,
    head: Literal["softmax", "sigmoid"] | None = None,
    output: str | int | None = None,
) -> MonteCarlo:
    """Average the predictions of sub-networks sampled from a trained network.

    empool's pooling layers sample as in training; every other module, such as batch normalisation and dropout, is in
    eval mode. Each forward pass samples anew for every image. The modes of all modules are restored afterwards. The
    cost is that of `samples` forward passes, the memory that of one pass with `at_once` times as many images.

    Args:
        model: computes logits ``(N, num_classes, ...)``.
        input: what the model takes: a tensor ``(N, ...)``, or a tuple, list or mapping with such tensors. A tuple is
            passed as positional arguments; a mapping whose keys are arguments of the model's forward as these.
        samples: number of sub-networks.
        at_once: sub-networks that share a forward pass, as further images of the batch. More take more memory, and
            less time if a batch is too small to fill the device.
        seed: makes the result repeatable without changing PyTorch's generators. By default the samples come from
            these generators, so `torch.manual_seed` determines them.
        head: how logits become probabilities: "softmax" for classes that exclude each other, "sigmoid" for classes
            that do not, whose entropies are added up. By default sigmoid for a single logit, otherwise softmax.
        output: key, attribute or index of the logits, if the model's output is not a tensor. By default "logits" or
            "out", whichever is there.

    Returns:
        Mean probabilities, their entropy, and the mutual information between prediction and sub-network.

    Raises:
        ValueError: if the model has no layer that samples, or one with a seed of its own; with `seed`, also one with a
            generator of its own; or if `samples` or `at_once` is less than 1.
        TypeError: if they or `seed` are not ints; if no logits are found in the model's output, or that is a tensor and
            `output` is given.

    Source: the measures of Gal, Islam and Ghahramani, arXiv 1703.02910, section 3.

    Example:
        >>> import empool, torch
        >>> net = empool.models.create("cnn", num_classes=10, pooling=empool.EnsembleMax(0.1), image_size=8)
        >>> probs, entropy, mutual_information = empool.monte_carlo(net, torch.randn(2, 3, 8, 8), samples=4)
        >>> probs.shape, entropy.shape
        (torch.Size([2, 10]), torch.Size([2]))
    """
    for name, number in (("samples", samples), ("at_once", at_once)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"monte_carlo: expected {name} to be an int, got {type(number).__name__}")
        if number < 1:
            raise ValueError(f"monte_carlo: expected {name} of at least 1, got {number}")
    if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__")):
        raise TypeError(f"monte_carlo: expected seed to be an int or None, got {type(seed).__name__}")
    if head not in (None, "softmax", "sigmoid"):
        raise ValueError(f'monte_carlo: expected head "softmax", "sigmoid" or None, got {head!r}')
    layers = {name: module for name, module in model.named_modules() if _samples(module)}
    if not layers:
        raise ValueError("monte_carlo: expected a model with a layer of empool's that samples; see empool.convert_")
    for name, layer in layers.items():
        for own in ("seed", *(["generator"] if seed is not None else [])):
            if getattr(layer, own) is not None:
                raise ValueError(
                    f"monte_carlo: expected layers without a {own} of their own, got one in {name or 'the model'}; "
                    f"set its {own} to None"
                )
    tensors = list(_tensors(input))
    images = next((len(tensor) for tensor in tensors if tensor.dim() > 0), None)
    if images is None:
        raise TypeError(f"monte_carlo: expected an input with a tensor (N, ...), got {type(input).__name__}")
    with _sampling(model), _seeded(seed, [*tensors, *model.parameters()]):
        for first in range(0, samples, at_once):
            members = min(at_once, samples - first)
            logits = _logits(_call(model, _repeated(input, images, members)), output, members * images)
            is_binary = head == "sigmoid" or (head is None and logits.size(1) == 1)
            probs = logits.sigmoid() if is_binary else logits.softmax(1)
            probs = probs.reshape(members, images, *probs.shape[1:])
            entropies = _entropy(probs, 2, is_binary)
            if first == 0:
                total, total_entropy = torch.zeros_like(probs[0]), torch.zeros_like(entropies[0])
            total += probs.sum(0)
            total_entropy += entropies.sum(0)
    mean = total / samples
    entropy = _entropy(mean, 1, is_binary)
    return MonteCarlo(mean, entropy, (entropy - total_entropy / samples).clamp_min(0))


def set_p(model: nn.Module, p: Number, filter_fn: Callable[[str, nn.Module], bool] | None = None) -> list[str]:
    """Set the probability p of the layers that have one.

    These are ensemble max-pooling, max-pooling dropout, and layers of a rank distribution that has a p, adaptive ones
    included. Only numbers in memory change: a compiled network is not compiled again.

    Args:
        model: a network, or a layer itself.
        p: probability of dropping, in [0, 1]; or one for each channel, as a list or a tensor ``(channels,)``, which
            layers of a rank distribution don't take.
        filter_fn: takes the dotted name and the module of each such layer and returns whether to set its p. By default
            all are set.

    Returns:
        The dotted names of the layers that were set.

    Raises:
        ValueError: if p is outside [0, 1], or there is no such layer.
        TypeError: if p is not a number, or one for each channel where a layer takes only one.

    Example:
        >>> import empool
        >>> from torch import nn
        >>> empool.set_p(nn.Sequential(nn.ReLU(), empool.EnsembleMaxPool2d(2, p=0.1)), 0.5)
        ['1']
    """
    number = _checked(p)
    layers = [(name, module) for name, module in model.named_modules() if _has_p(module)]
    if not layers:
        raise ValueError("set_p: expected a model with layers that have a p, such as EnsembleMaxPool2d, got none")
    if filter_fn is not None:
        layers = [(name, module) for name, module in layers if filter_fn(name, module)]
        if not layers:
            raise ValueError("set_p: expected filter_fn to choose at least one of the layers that have a p")
    by_distribution = [name for name, module in layers if isinstance(module, Ranked)]
    if by_distribution and isinstance(number, list):
        raise TypeError(f"set_p: expected one number for the rank distribution of {by_distribution[0]}, got a list")
    for _, module in layers:
        if isinstance(module, Ranked):
            distribution: Any = module.distribution
            module.distribution = dataclasses.replace(distribution, p=number)
        else:
            module.p = number
    return [name for name, _ in layers]


def _checked(p: Any) -> float | list[float]:
    """Return p as a number or a list of numbers."""
    values = p.detach().tolist() if isinstance(p, Tensor) else p
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [probability("set_p", "p", value) for value in values]
    return probability("set_p", "p", values)


def _has_p(module: nn.Module) -> bool:
    if isinstance(module, Ranked):
        return "p" in getattr(module.distribution, "__dataclass_fields__", ())
    return isinstance(module, Pool) and "p" in module._own


def _samples(module: nn.Module) -> bool:
    """Tell whether a layer samples in training; learned pooling need not."""
    return isinstance(module, Pool) and bool(getattr(module, "sample", True))


@contextmanager
def _sampling(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, except for the layers that sample, and restore its modes afterwards."""
    # Flags, not train() and eval(): a model may have overridden those to do more.
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = _samples(module)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _seeded(seed: int | None, tensors: list[Tensor]) -> Iterator[None]:
    """Seed the generators of the CPU and of the tensors' devices, and restore them afterwards."""
    if seed is None:
        yield
        return
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    with torch.random.fork_rng(devices, device_type=next((d.type for d in devices), "cuda")):
        torch.manual_seed(seed)
        yield


def _tensors(input: object) -> Iterator[Tensor]:
    if isinstance(input, Tensor):
        yield input
    elif isinstance(input, (Mapping, tuple, list)):
        for part in input.values() if isinstance(input, Mapping) else input:
            yield from _tensors(part)


def _repeated(input: Any, images: int, times: int) -> Any:
    """Repeat every tensor that has the images along its first dimension."""
    if times == 1:
        return input
    if isinstance(input, Tensor):
        return torch.cat([input] * times) if input.dim() > 0 and len(input) == images else input
    if isinstance(input, Mapping):
        return {key: _repeated(part, images, times) for key, part in input.items()}
    if isinstance(input, (tuple, list)):
        parts = [_repeated(part, images, times) for part in input]
        return type(input)(*parts) if hasattr(input, "_fields") else type(input)(parts)
    return input


def _call(model: nn.Module, input: Any) -> Any:
    if type(input) is tuple:
        return model(*input)
    if isinstance(input, Mapping) and set(input) <= set(inspect.signature(model.forward).parameters):
        return model(**input)
    return model(input)


def _logits(found: Any, output: str | int | None, images: int) -> Tensor:
    """Take the logits out of a model's output, in float32 or float64."""
    logits = found
    if not isinstance(found, Tensor):
        names = ("logits", "out") if output is None else (output,)
        logits = next((part for part in (_part(found, key) for key in names) if part is not None), None)
    elif output is not None:
        raise TypeError(f"monte_carlo: expected output=None for a model that returns a tensor, got {output!r}")
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(repr, found))}" if isinstance(found, Mapping) else ""
        raise TypeError(
            f"monte_carlo: expected a model that computes logits, got {type(found).__name__}{keys}; "
            "say by output= where in it they are"
        )
    if logits.dim() < 2 or len(logits) != images:
        raise TypeError(f"monte_carlo: expected logits ({images}, num_classes, ...), got {tuple(logits.shape)}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _part(found: Any, key: str | int) -> Any:
    """Look up a part of a model's output by its key, attribute or index; None if it is not there."""
    if isinstance(found, Mapping):
        return found.get(key)
    if isinstance(key, str):
        return getattr(found, key, None)
    return found[key] if isinstance(found, (tuple, list)) and -len(found) <= key < len(found) else None


def _entropy(probs: Tensor, dim: int, is_binary: bool) -> Tensor:
    terms: Tensor = torch.special.entr(probs)
    if is_binary:
        terms = terms + torch.special.entr(1 - probs)
    return terms.sum(dim)
