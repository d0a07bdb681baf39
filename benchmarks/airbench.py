"""The recipe of airbench (Jordan, arXiv 2404.00498) in plain PyTorch, with any pooling, images resident on the device.

    python benchmarks/airbench.py --data FOLDER [--model airbench:64-128-128] [--pooling max] [--epochs 11] [--runs 1]
        [--train-limit N] [--no-augment] [--device cuda] [--precision float16] [--no-graph]

FOLDER holds CIFAR-10 as train-*.parquet and test-*.parquet. Prints one JSON line a run: errors with and without
test-time augmentation. On CUDA a training step is one captured graph. The computation is the same on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from on_device import captured, cifar10, derived_seed, scores, stratified
from torch import Tensor, nn

import empool
from empool import models
from empool.models.airbench import AirbenchRecipe, whitening

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT = 2
TEST_BATCH = 2500
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Images:
    """Normalised images on the device.

    Attributes:
        padded: ``(N, 36, 36, 3)``, two pixels of reflection on every side.
        labels: ``(N,)``.
        weights: of the whitening convolution, from these images.
    """

    padded: Tensor
    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def plain(self) -> Tensor:
        """The images as they are, ``(N, 32, 32, 3)``."""
        return self.padded[:, SHIFT:-SHIFT, SHIFT:-SHIFT]


def prepare(images: Any, labels: Any, device: str, precision: str) -> Images:
    """Normalise images ``(N, 32, 32, 3)`` uint8 by the published mean and standard deviation, and pad them."""
    raw = torch.as_tensor(images).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    normal = (raw - mean) / std
    padded = F.pad(normal, (SHIFT,) * 4, "reflect").permute(0, 2, 3, 1).to(DTYPES[precision]).contiguous()
    return Images(padded, torch.as_tensor(labels).to(device), whitening(normal))


class Trainer:
    """Trains one kind of network again and again; its tensors, and so its CUDA graphs, stay.

    Args:
        model: spelling, "airbench:W-W-W".
        pooling: spelling.
        capacity: most training images.
        device: "cpu" or "cuda".
        precision: of the forward and backward passes; weights and their updates are float32.
        graph: capture the training step as a CUDA graph.
        batch_size: images a step; None for the recipe's.
    """

    def __init__(
        self,
        model: str,
        pooling: str,
        *,
        capacity: int,
        device: str = "cpu",
        precision: str = "float32",
        graph: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        recipe = models.network(model).recipe
        assert isinstance(recipe, AirbenchRecipe)
        self.model, self.pooling, self.recipe = model, pooling, recipe
        self.device, self.precision = device, precision
        self.graph = device == "cuda" if graph is None else graph
        self.batch_size = batch_size or recipe.batch_size
        self.network = self._fresh(0).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = self.batch_size
        self.images = torch.zeros(capacity, 32, 32, 3, dtype=DTYPES[precision], device=device)
        self.labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.order = torch.zeros(max(capacity // size, 1), size, dtype=torch.int64, device=device)
        self.rates = torch.zeros(100_000, device=device)  # of every step of a run, as a share of the highest
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # of the batch in the epoch
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        named = dict(self.network.named_parameters())
        self.fast = [value for name, value in named.items() if "norm" in name and value.requires_grad]
        self.rest = [value for name, value in named.items() if "norm" not in name and value.requires_grad]
        self.bias = named["whiten.bias"]
        self.momenta = {value: torch.zeros_like(value) for value in (*self.fast, *self.rest)}
        constant = {"whiten.weight", *(name for name in named if "norm" in name and name.endswith("weight"))}
        state = self.network.state_dict(keep_vars=True)
        self.averaged = [
            value.data for name, value in state.items() if value.is_floating_point() and name not in constant
        ]
        self.slow = [value.clone() for value in self.averaged]
        self._steps: dict[bool, Callable[[], None]] = {}

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(derived_seed(seed, "weights"))
        return models.create(self.model, num_classes=10, pooling=empool.pooling(self.pooling))

    def _autocast(self) -> torch.autocast:
        enabled = self.precision != "float32"
        dtype = DTYPES[self.precision] if enabled else torch.bfloat16
        return torch.autocast(self.device, dtype=dtype, enabled=enabled, cache_enabled=False)

    def _step(self, with_bias: bool) -> None:
        """Train on one batch. Everything that changes from step to step is read from tensors."""
        index = self.order.index_select(0, self.place)[0]
        images = self.images.index_select(0, index).permute(0, 3, 1, 2)
        labels = self.labels.index_select(0, index)
        rest = [value for value in self.rest if with_bias or value is not self.bias]
        with self._autocast():
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing, reduction="sum")
        gradients = torch.autograd.grad(loss, [*self.fast, *rest])
        rate = self.rates.index_select(0, self.step)[0]
        with torch.no_grad():
            scaled = self.recipe.sgd_rate * self.recipe.bias_scale
            self._update(self.fast, gradients[: len(self.fast)], scaled, rate)
            self._update(rest, gradients[len(self.fast) :], self.recipe.sgd_rate, rate)
            self.place.add_(1)
            self.step.add_(1)

    def _update(self, parameters: list[nn.Parameter], gradients: Any, highest: float, rate: Tensor) -> None:
        """Do a step of Nesterov SGD, as torch.optim.SGD does."""
        moved = torch._foreach_add(list(gradients), parameters, alpha=self.recipe.sgd_decay / highest)
        momenta = [self.momenta[parameter] for parameter in parameters]
        torch._foreach_mul_(momenta, self.recipe.momentum)
        torch._foreach_add_(momenta, moved)
        torch._foreach_add_(moved, momenta, alpha=self.recipe.momentum)
        torch._foreach_mul_(moved, rate * highest)
        torch._foreach_sub_(parameters, moved)

    def step_function(self, with_bias: bool) -> Callable[[], None]:
        """Return the step, as a captured graph where that is asked for."""
        if with_bias not in self._steps:
            self.bias.requires_grad_(with_bias)  # Without it, nothing before the first group needs a gradient.

            def step() -> None:
                self._step(with_bias)

            if self.graph:
                state = [*(p.data for p in self.network.parameters()), *self.network.buffers()]
                state += [*self.momenta.values(), self.place, self.step]
                place, number = self.place.clone(), self.step.clone()
                self.place.zero_()
                self.step.zero_()
                self._steps[with_bias] = captured(step, state)
                self.place.copy_(place)
                self.step.copy_(number)
            else:
                self._steps[with_bias] = step
        return self._steps[with_bias]

    @torch.no_grad()
    def start(self, data: Images, seed: int, steps: int) -> torch.Generator:
        """Give the network fresh weights, and the run its seeds."""
        fresh = self._fresh(seed).state_dict()
        for name, value in self.network.state_dict().items():
            value.copy_(fresh[name])
        self.network.whiten.weight.copy_(data.weights)  # type: ignore[union-attr, operator]
        for momentum in self.momenta.values():
            momentum.zero_()
        torch._foreach_copy_(self.slow, self.averaged)
        factors = [self.recipe.factor(step, steps) for step in range(steps)]
        self.rates[:steps] = torch.tensor(factors, device=self.device)
        self.labels[: len(data)] = data.labels
        self.step.zero_()
        torch.manual_seed(derived_seed(seed, "draws"))
        return torch.Generator(self.device).manual_seed(derived_seed(seed, "order"))

    @torch.no_grad()
    def begin_epoch(self, data: Images, epoch: int, flips: Tensor | None, generator: torch.Generator) -> int:
        """Put an epoch's images and their order in place; return its number of steps."""
        count = len(data)
        if flips is not None:
            side = torch.arange(32, device=self.device)
            shifts = torch.randint(0, 2 * SHIFT + 1, (count, 2), generator=generator, device=self.device)
            mirrored = flips ^ (epoch % 2 == 1)
            rows = side + shifts[:, :1]
            columns = torch.where(mirrored[:, None], 31 - side, side) + shifts[:, 1:]
            image = torch.arange(count, device=self.device)[:, None, None]
            self.images[:count] = data.padded[image, rows[:, :, None], columns[:, None, :]]
        elif epoch == 0:
            self.images[:count] = data.plain
        size = self.batch_size
        steps = count // size  # The last incomplete batch is left out.
        order = torch.randperm(count, generator=generator, device=self.device)
        self.order[:steps] = order[: steps * size].view(steps, size)
        self.place.zero_()
        return steps

    def train(self, data: Images, epochs: float, augment: bool, seed: int) -> float:
        """Train a fresh network; return the images a second, whose clock runs from the first epoch to the last."""
        per_epoch = len(data) // self.batch_size
        if per_epoch == 0:
            raise ValueError(f"a batch has {self.batch_size} images, and there are {len(data)}")
        steps = math.ceil(per_epoch * epochs)
        generator = self.start(data, seed, steps)
        for with_bias in (True, False):
            self.step_function(with_bias)  # Captured before the clock runs.
        torch.manual_seed(derived_seed(seed, "draws"))
        flips = torch.rand(len(data), generator=generator, device=self.device) < 0.5 if augment else None
        self.network.train()
        _wait(self.device)
        began, done = time.perf_counter(), 0
        for epoch in range(math.ceil(epochs)):
            with_bias = epoch < self.recipe.whitening_epochs
            self.bias.requires_grad_(with_bias)
            step = self.step_function(with_bias)
            for _ in range(self.begin_epoch(data, epoch, flips, generator)):
                step()
                done += 1
                if done % self.recipe.lookahead == 0:
                    self._look_ahead(self.recipe.slow_share(done, steps))
                if done == steps:
                    break
        self._look_ahead(1.0)
        _wait(self.device)
        return done * self.batch_size / (time.perf_counter() - began)

    @torch.no_grad()
    def _look_ahead(self, share: float) -> None:
        torch._foreach_lerp_(self.slow, self.averaged, 1 - share)
        torch._foreach_copy_(self.averaged, self.slow)

    @torch.no_grad()
    def logits(self, images: Tensor, augmented: bool = False) -> Tensor:
        """Predict images ``(N, 32, 32, 3)`` in inference mode; augmented: averaged over mirror and shifts."""
        self.network.eval()
        parts = [self._augmented(batch) if augmented else self._logits(batch) for batch in self.batches(images)]
        return torch.cat(parts)

    def _logits(self, batch: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self.network(batch)
        return logits.float()

    def _mirrored(self, batch: Tensor) -> Tensor:
        return 0.5 * self._logits(batch) + 0.5 * self._logits(batch.flip(-1))

    def _augmented(self, batch: Tensor) -> Tensor:
        padded = F.pad(batch, (1,) * 4, "reflect")
        shifted = [self._mirrored(padded[:, :, at : at + 32, at : at + 32]) for at in (0, 2)]
        return 0.5 * self._mirrored(batch) + 0.25 * (shifted[0] + shifted[1])

    def batches(self, images: Tensor) -> Iterator[Tensor]:
        """Give images in batches ``(B, 3, 32, 32)``, channels last."""
        for first in range(0, len(images), TEST_BATCH):
            yield images[first : first + TEST_BATCH].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def recalibrate(self, images: int) -> None:
        """Recompute batch normalisation's statistics from the last epoch's training images, as they were."""
        with self._autocast():
            empool.recalibrate_(self.network, self.batches(self.images[:images]))

    def test(self, test: Images, rules: tuple[str, ...], bits: bool = True) -> dict[str, dict[str, Any]]:
        """Score the test images as they are, and by test-time augmentation where "tta" is among the rules."""
        return {
            rule: scores(self.logits(test.plain, rule.endswith("tta")), test.labels, bits and not rule.endswith("tta"))
            for rule in rules
        }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="airbench:64-128-128")
    parser.add_argument("--pooling", default="max")
    parser.add_argument("--epochs", type=float, default=11)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--test-limit", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", default="float16" if torch.cuda.is_available() else "float32", choices=list(DTYPES)
    )
    parser.add_argument("--no-graph", action="store_true")
    parser.add_argument("--cache", type=Path, help="file that keeps the decoded images")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    arrays = cifar10(options.data, options.cache)
    sets = {}
    for split, limit in (("train", options.train_limit), ("test", options.test_limit)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if limit is not None:
            chosen = stratified(labels, limit)
            images, labels = images[chosen], labels[chosen]
        sets[split] = prepare(images, labels, options.device, options.precision)
    trainer = Trainer(
        options.model,
        options.pooling,
        capacity=len(sets["train"]),
        device=options.device,
        precision=options.precision,
        graph=False if options.no_graph else None,
        batch_size=options.batch_size,
    )
    for seed in range(options.seed, options.seed + options.runs):
        speed = trainer.train(sets["train"], options.epochs, not options.no_augment, seed)
        found = trainer.test(sets["test"], ("single", "tta"), bits=False)
        fitted = scores(trainer.logits(sets["train"].plain), sets["train"].labels)
        errors = {rule: round(score["error"], 2) for rule, score in found.items()}
        line = {"model": options.model, "pooling": options.pooling, "seed": seed, "precision": options.precision}
        print(
            json.dumps({**line, **errors, "train": round(fitted["error"], 2), "images_per_second": speed}), flush=True
        )


if __name__ == "__main__":
    main()
