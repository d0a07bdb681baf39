"""A trained network as the ensemble that its draws make: members drawn at test time, and their p."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from empool.distributions import probability
from empool.modules import _EnsembleMaxPool, _MaxPoolDropout, _Pool


class MonteCarlo(NamedTuple):
    """What `monte_carlo` found.

    Attributes:
        probs: mean probabilities of the members, ``(N, num_classes, ...)``.
        entropy: of these means, in nats, ``(N, ...)``: all of the uncertainty.
        mutual_information: the entropy less the members' mean entropy, ``(N, ...)``: the part that is disagreement.
    """

    probs: Tensor
    entropy: Tensor
    mutual_information: Tensor


@torch.no_grad()
def monte_carlo(model: nn.Module, input: Tensor, samples: int = 32, *, at_once: int = 1) -> MonteCarlo:
    """Draw members of the ensemble that a trained network stands for, and average their predictions.

    The pooling layers of empool draw as in training; everything else, batch normalisation and dropout included, is as
    in testing. Every member draws anew for every image. The phases of all modules are put back afterwards. The cost is
    that of `samples` forward passes; the memory that of one with `at_once` times as many images.

    Args:
        model: gives logits ``(N, num_classes, ...)``.
        input: ``(N, ...)``, on the model's device.
        samples: number of members.
        at_once: members that share a forward pass, as further images of the batch. More of them take more memory, and
            less time where a batch is too small to fill the device.

    Returns:
        Mean probabilities, their entropy, and the mutual information between prediction and member.

    Raises:
        ValueError: if the model has no layer that draws, or `samples` or `at_once` is less than 1.
        TypeError: if they are no ints, or the model does not give a tensor of logits.

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
    if not any(isinstance(module, _Pool) for module in model.modules()):
        raise ValueError("monte_carlo: expected a model with a layer of empool's that draws; see empool.convert_")
    with _drawing(model):
        for first in range(0, samples, at_once):
            members = min(at_once, samples - first)
            logits = model(torch.cat([input] * members) if members > 1 else input)
            probs = _probabilities(logits, members * len(input))
            probs = probs.reshape(members, len(input), *probs.shape[1:])
            entropies = _entropy(probs, 2)
            if first == 0:
                total, total_entropy = torch.zeros_like(probs[0]), torch.zeros_like(entropies[0])
            total += probs.sum(0)
            total_entropy += entropies.sum(0)
    mean = total / samples
    entropy = _entropy(mean, 1)
    return MonteCarlo(mean, entropy, (entropy - total_entropy / samples).clamp_min(0))


def set_p(model: nn.Module, p: float) -> list[str]:
    """Set the probability p of all layers that have one: ensemble max-pooling and max-pooling dropout.

    Args:
        model: a network, or a layer itself.
        p: probability of dropping, in [0, 1].

    Returns:
        The dotted names of these layers.

    Raises:
        ValueError: if p is outside [0, 1], or there is no such layer.

    Example:
        >>> import empool
        >>> from torch import nn
        >>> empool.set_p(nn.Sequential(nn.ReLU(), empool.EnsembleMaxPool2d(2, p=0.1)), 0.5)
        ['1']
    """
    p = probability("set_p", "p", p)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (_EnsembleMaxPool, _MaxPoolDropout))}
    if not layers:
        raise ValueError(
            "set_p: expected a model with ensemble max-pooling or max-pooling dropout; see empool.convert_"
        )
    for module in layers.values():
        module.p = p
    return list(layers)


@contextmanager
def _drawing(model: nn.Module) -> Iterator[None]:
    """Put a model into its testing phase, apart from the layers that draw, and back again."""
    # Flags, not train() and eval(): a model may have overridden those to do more.
    phases = {module: module.training for module in model.modules()}
    try:
        for module in phases:
            module.training = isinstance(module, _Pool)
        yield
    finally:
        for module, phase in phases.items():
            module.training = phase


def _probabilities(logits: object, images: int) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"monte_carlo: expected a model that gives logits, got {type(logits).__name__}")
    if logits.dim() < 2 or len(logits) != images:
        raise TypeError(f"monte_carlo: expected logits ({images}, num_classes, ...), got {tuple(logits.shape)}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def _entropy(probs: Tensor, dim: int) -> Tensor:
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(dim)
