"""Batch normalisation's statistics in eval mode, for a network that was trained with sampling pools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from empool._private import BatchNorm


@torch.no_grad()
def recalibrate_(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Recompute the running statistics of batch normalisation with everything else in eval mode.

    In training, batch normalisation sees samples; in eval mode the pooling layers give expectations, which have a
    smaller variance. One pass over training images removes that shift. It needs no labels and changes no weights.

    The new statistics are the averages of the batches' means and unbiased variances, each batch counted by its size.

    Args:
        model: a trained network; changed in place. The modes of its modules are restored.
        batches: of inputs, prepared as for training; of a tuple or list the first item is taken, so a `DataLoader` of
            images and labels will do. They are moved to the model's device.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no batch normalisation with running statistics, or there are no batches.
        TypeError: if `batches` is a single tensor, or a batch is neither a tensor nor begins with one.

    Source: the shift is that of Li et al., "Understanding the disharmony between dropout and batch normalization by
        variance shift", CVPR 2019.

    Example:
        >>> import empool, torch
        >>> net = empool.models.create("cnn", num_classes=10, pooling=empool.EnsembleMax(0.3), image_size=8)
        >>> loader = [torch.randn(16, 3, 8, 8) for _ in range(4)]
        >>> net = empool.recalibrate_(net, loader)
    """
    if isinstance(batches, Tensor):
        raise TypeError("recalibrate_: expected an iterable of batches, got a tensor; give it in a list, as [tensor]")
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        raise ValueError("recalibrate_: expected a model with batch normalisation that keeps running statistics")
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    kept = [[buffer.clone() for buffer in norm.buffers(recurse=False)] for norm in norms]
    seen, done = 0, False
    try:
        # Flags, not train() and eval(): a model may have overridden those to do more.
        for module in modes:
            module.training = False
        for norm in norms:
            norm.training = True
            norm.reset_running_stats()
        for batch in batches:
            images = _images(batch).to(norms[0].running_mean.device)  # type: ignore[union-attr]
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / max(seen, 1)  # Makes the running statistics a mean over images.
            model(images)
        if seen == 0:
            raise ValueError("recalibrate_: expected at least one batch with inputs")
        done = True
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum, buffers in zip(norms, momenta, kept, strict=True):
            norm.momentum = momentum
            if not done:
                for buffer, before in zip(norm.buffers(recurse=False), buffers, strict=True):
                    buffer.copy_(before)
    return model


def _images(batch: Any) -> Tensor:
    first = batch[0] if isinstance(batch, (tuple, list)) and len(batch) > 0 else batch
    if not isinstance(first, Tensor):
        raise TypeError(f"recalibrate_: expected batches of tensors, got {type(first).__name__}")
    return first
