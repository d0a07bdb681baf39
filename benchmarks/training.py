"""Time the lab's training beside a plain loop that a good engineer would write by hand, on the same batches.

    python benchmarks/training.py [--models cnn resnet:20] [--threads 2] [--steps 10] [--rounds 12] [--json FILE]
    python benchmarks/training.py --threads 1 --cpu-time      # on a machine that has other work

One process; an epoch of the lab's `fit` and one of the plain loop take turns. Ratios are taken between two
epochs that follow each other, then their median over the rounds. Tests and checkpoints are not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empool import models
from empool.lab import provenance
from empool.lab.data.sets import DataSet, Split
from empool.lab.study.run import RunConfig
from empool.lab.train import experiment, loop
from empool.lab.train.batches import Batches, Normaliser
from empool.lab.train.loop import fit

AUGMENT = "crop:4,mirror"
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
OVERHEAD_STEPS = 200


class Turns:
    """Epochs of a run and of the plain loop by turns, each timed; what `fit` takes to watch it.

    Attributes:
        ours: seconds of a step of the lab in each round.
        plain: of the plain loop.
        batches: of making a batch, in the plain loop.
    """

    def __init__(self, config: RunConfig, data: DataSet) -> None:
        self.ours: list[float] = []
        self.plain: list[float] = []
        self.batches: list[float] = []
        self.device, recipe = config.device, config.recipe
        self.network = experiment.make_network(config, data).to(self.device)
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.rate(0),
            momentum=recipe.momentum,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
        normaliser = Normaliser(data.mean, data.std, self.device)
        self.data = Batches(data.train.to(self.device), config, normaliser)

    def __call__(self, epochs: float, row: dict[str, float | None] | None) -> None:
        if row is None:
            return
        assert row["seconds"] is not None
        self.ours.append(row["seconds"] / len(self.data))
        self.plain.append(self._timed(self._epoch) / len(self.data))
        self.batches.append(self._timed(lambda: [None for _ in self.data]) / len(self.data))

    def medians(self) -> dict[str, float]:
        """Give milliseconds of a step and ratios; the first round warms up."""
        ours, plain, batches = self.ours[1:], self.plain[1:], self.batches[1:]
        return {
            "lab ms": 1e3 * statistics.median(ours),
            "plain ms": 1e3 * statistics.median(plain),
            "images per second, lab / plain": statistics.median(b / a for a, b in zip(ours, plain, strict=True)),
            "batch ms": 1e3 * statistics.median(batches),
            "share of batch": statistics.median(b / a for a, b in zip(ours, batches, strict=True)),
        }

    def _epoch(self) -> None:
        for images, labels in self.data:
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(images), labels).backward()
            self.optimizer.step()

    def _timed(self, act: Any) -> float:
        self._wait()
        began = loop.time.perf_counter()  # The clock that times the lab's epochs.
        act()
        self._wait()
        return loop.time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Least(nn.Module):
    """The network whose step is nothing but overhead."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 10)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images of one pixel."""
        logits: Tensor = self.line(input.flatten(1))
        return logits


def noise(images: int, size: int) -> DataSet:
    """Make images like CIFAR's, of noise."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(0, 10, (count,), generator=generator))

    return DataSet("noise", split(images), split(10), tuple("0123456789"), MEAN, STD, "noise")


def measure(config: RunConfig, data: DataSet) -> dict[str, float]:
    """Train, and give the medians."""
    turns = Turns(config, data)
    with tempfile.TemporaryDirectory() as folder:
        fit(config, data, Path(folder), turns)
    return turns.medians()


def run_of(model: str, rounds: int, device: str, **changes: Any) -> RunConfig:
    """Configure a run of as many epochs as there are rounds, and one to warm up."""
    recipe = dataclasses.replace(models.network(model).recipe, epochs=rounds + 1, augment=AUGMENT, **changes)
    return RunConfig("noise", "noise", model, "ensemble:0.1", 0, None, None, recipe, device=device)


@contextmanager
def least_network() -> Iterator[None]:
    """Let every network be the least one."""
    usual = experiment.make_network
    experiment.make_network = lambda config, data: Least()
    try:
        yield
    finally:
        experiment.make_network = usual


def main() -> None:
    """Print a line for every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet:20"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cpu-time", action="store_true", help="the process's instead of the wall clock's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.cpu_time:
        loop.time = SimpleNamespace(perf_counter=time.process_time)
    with least_network():
        run = run_of("cnn", arguments.rounds, arguments.device, batch_size=2)
        least = measure(run, noise(2 * OVERHEAD_STEPS, 1))
    overhead = least["lab ms"] - least["plain ms"]
    print(f"torch {torch.__version__}, {arguments.threads} threads; overhead of a step {overhead:.2f} ms", flush=True)
    results: dict[str, dict[str, float]] = {}
    for model in arguments.models:
        run = run_of(model, arguments.rounds, arguments.device)
        found = measure(run, noise(arguments.steps * run.recipe.batch_size, 32))
        found["share of overhead"] = overhead / found["lab ms"]
        results[model] = found
        print(
            f"{model}: images per second {found['images per second, lab / plain']:.3f} of the plain loop's; "
            f"a step {found['lab ms']:.1f} ms, of the plain loop {found['plain ms']:.1f} ms; "
            f"{found['share of batch']:.1%} of it makes the batch, {found['share of overhead']:.1%} is overhead",
            flush=True,
        )
    if arguments.json:
        about = {"torch": torch.__version__, "threads": arguments.threads, "machine": provenance.processor()}
        content = {
            **about,
            "device": arguments.device,
            "CPU time": arguments.cpu_time,
            "overhead ms": overhead,
            "results": results,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
