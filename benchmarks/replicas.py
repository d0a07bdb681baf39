"""The lab's training of a small network, several seeds at once: on a GPU each seed is a branch of one CUDA graph.

A small network alone leaves most of a large GPU idle. Initial weights, the order of the images, learning rates and
updates are those of `empool.lab`. The samples of the pooling layers come from one generator for all seeds of a group.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from on_device import captured, derived_seed, scores
from torch import Tensor, nn

import empool
from empool import models
from empool.models import Recipe

TEST_BATCH = 2500


class Replicas:
    """Networks of one kind, one a seed, trained in step.

    Args:
        model: spelling.
        pooling: spelling, or "none".
        seeds: of the networks.
        recipe: how they are trained; without augmentation.
        images: ``(N, H, W, C)`` uint8, and labels ``(N,)``: training images, on the device.
        device: "cpu" or "cuda".
        graph: capture a step of all networks as a CUDA graph.
    """

    def __init__(
        self,
        model: str,
        pooling: str,
        seeds: Sequence[int],
        recipe: Recipe,
        images: Tensor,
        labels: Tensor,
        device: str = "cpu",
        graph: bool | None = None,
    ) -> None:
        if recipe.augment != "none":
            raise ValueError(f"expected a recipe without augmentation, got {recipe.augment}")
        self.seeds, self.recipe, self.device = list(seeds), recipe, device
        self.graph = device == "cuda" if graph is None else graph
        own = models.network(model).options()
        options = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe) if field.name in own}
        self.networks: list[nn.Module] = []
        for seed in self.seeds:
            torch.manual_seed(derived_seed(seed, "weights"))
            network = models.create(model, num_classes=10, pooling=models.read_pooling(pooling), **options)
            self.networks.append(network.to(device=device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        raw = images.to(device).double()
        # The standard deviation of all pixels, not of a sample.
        mean, std = raw.mean((0, 1, 2)), raw.std((0, 1, 2), correction=0)
        self.mean, self.scale = mean.float(), (1 / std).float()
        self.images, self.labels = self.normal(images), labels.to(device)
        count, size = len(labels), recipe.batch_size
        self.full, rest = divmod(count, size)
        self.rest = rest if rest >= 2 or self.full == 0 else 0  # Batch normalisation can't take a single image.
        self.per_epoch = self.full + (self.rest > 0)
        made = {"dtype": torch.int64, "device": device}
        self.order = torch.zeros(len(self.seeds), max(self.full, 1), size, **made)
        self.order_rest = torch.zeros(len(self.seeds), self.rest, **made)
        rates = [recipe.rate(step / self.per_epoch) for step in range(recipe.epochs * self.per_epoch)]
        self.rates = torch.tensor(rates, device=device)
        self.place, self.step = torch.zeros(1, **made), torch.zeros(1, **made)
        self.totals = torch.zeros(len(self.seeds), 2, dtype=torch.float64, device=device)  # loss, errors of an epoch
        self.parameters = [list(network.parameters()) for network in self.networks]
        self.momenta = [[torch.zeros_like(p) for p in parameters] for parameters in self.parameters]
        self.streams = [torch.cuda.Stream() for _ in self.seeds] if device == "cuda" else []
        self._steps: dict[bool, Callable[[], None]] = {}

    def normal(self, images: Tensor) -> Tensor:
        """Normalise images ``(N, H, W, C)`` uint8, kept in that order of dimensions."""
        return (images.to(self.device).float() - self.mean) * self.scale

    def _train(self, replica: int, whole: bool) -> None:
        index = self.order[replica].index_select(0, self.place)[0] if whole else self.order_rest[replica]
        images = self.images.index_select(0, index).permute(0, 3, 1, 2)
        labels = self.labels.index_select(0, index)
        logits = self.networks[replica](images)
        loss = F.cross_entropy(logits, labels)
        parameters, momenta = self.parameters[replica], self.momenta[replica]
        gradients = torch.autograd.grad(loss, parameters)
        rate = self.rates.index_select(0, self.step)[0]
        with torch.no_grad():
            moved = torch._foreach_add(gradients, parameters, alpha=self.recipe.weight_decay)
            torch._foreach_mul_(momenta, self.recipe.momentum)
            torch._foreach_add_(momenta, moved)
            torch._foreach_add_(moved, momenta, alpha=self.recipe.momentum)  # Nesterov
            torch._foreach_mul_(moved, rate)
            torch._foreach_sub_(parameters, moved)
            self.totals[replica] += torch.stack((loss * len(labels), (logits.argmax(1) != labels).sum()))

    def _step(self, whole: bool) -> None:
        if self.streams:
            main = torch.cuda.current_stream()
            for replica, stream in enumerate(self.streams):
                stream.wait_stream(main)
                with torch.cuda.stream(stream):
                    self._train(replica, whole)
            for stream in self.streams:
                main.wait_stream(stream)
        else:
            for replica in range(len(self.seeds)):
                self._train(replica, whole)
        with torch.no_grad():
            self.place.add_(1)
            self.step.add_(1)

    def step_function(self, whole: bool) -> Callable[[], None]:
        """Return the step of a whole batch, or of the last one of an epoch, which is smaller."""
        if whole not in self._steps:

            def step() -> None:
                self._step(whole)

            if self.graph:
                state = [tensor for network in self.networks for tensor in network.state_dict().values()]
                state += [momentum for momenta in self.momenta for momentum in momenta]
                self._steps[whole] = captured(step, [*state, self.place, self.step, self.totals], warmup=1)
            else:
                self._steps[whole] = step
        return self._steps[whole]

    def prepare(self) -> None:
        """Capture the steps, so that training only replays them."""
        torch.manual_seed(derived_seed(self.seeds[0], "draws"))
        for whole in (True,) * (self.full > 0) + (False,) * (self.rest > 0):
            self.step_function(whole)

    def begin_epoch(self, epoch: int) -> None:
        """Order the images of each seed as the lab does."""
        for replica, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
            order = torch.randperm(len(self.labels), generator=generator)
            whole = self.full * self.recipe.batch_size
            if self.full:
                self.order[replica].copy_(order[:whole].view(self.full, -1), non_blocking=True)
            self.order_rest[replica].copy_(order[whole : whole + self.rest], non_blocking=True)
        self.place.zero_()
        self.totals.zero_()

    def train(self, epochs: int | None = None) -> dict[str, Any]:
        """Train all networks; return seconds, and the loss and error of each epoch for each seed."""
        self.prepare()
        torch.manual_seed(derived_seed(self.seeds[0], "draws"))
        for network in self.networks:
            network.train()
        began = self._clock()
        history = []
        for epoch in range(epochs or self.recipe.epochs):
            self.begin_epoch(epoch)
            if self.full:
                step = self.step_function(True)
                for _ in range(self.full):
                    step()
            if self.rest:
                self.step_function(False)()
            history.append(self.totals.clone())
        seconds = self._clock() - began
        seen = min(self.full * self.recipe.batch_size + self.rest, len(self.labels))
        means = torch.stack(history) / seen
        return {"seconds": seconds, "loss": means[..., 0].T.tolist(), "error": (100 * means[..., 1]).T.tolist()}

    def _clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def test(self, images: Tensor, labels: Tensor) -> list[dict[str, dict[str, Any]]]:
        """Score every network: on the test images (uint8), on its training images, and recalibrated."""
        test = self.normal(images)
        found = []
        for network in self.networks:
            single = scores(self._logits(network, test), labels, bits=True)
            fitted = scores(self._logits(network, self.images), self.labels)
            empool.recalibrate_(network, self._batches(self.images))
            again = scores(self._logits(network, test), labels, bits=True)
            found.append({"single": single, "fitted": fitted, "recalibrated": again})
        return found

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        network.eval()
        return torch.cat([network(batch) for batch in self._batches(images)])

    def _batches(self, images: Tensor) -> list[Tensor]:
        return [batch.permute(0, 3, 1, 2) for batch in images.split(TEST_BATCH)]
