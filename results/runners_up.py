"""Where the second largest activations of a trained network's windows come from, and what they are worth.

Run: python results/runners_up.py RUN --data cifar10 [--json FILE], RUN being a folder such as results/table1/max/0 with
its last.ckpt. For each pooling layer, over the windows of the test images: how many have a largest activation above 0,
and of those, how many a second above 0, the mean of second / largest, and how far apart the two are in the window.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import empool
from empool import models
from empool.lab.data.load import load_data
from empool.lab.files import read_json
from empool.lab.study.run import RunConfig
from empool.lab.train.checkpoint import read_checkpoint
from empool.lab.train.experiment import Experiment

POOLS = (
    *(nn.MaxPool2d, nn.AvgPool2d, empool.EnsembleMaxPool2d, empool.MaxPoolDropout2d, empool.RankPool2d),
    *(empool.StochasticPool2d, empool.StochasticMaxPool2d),
)


class Layer:
    """What is counted of a pooling layer."""

    def __init__(self, pool: Any) -> None:
        self.size, self.stride, self.padding = pool.kernel_size, pool.stride, pool.padding
        self.windows = self.active = self.seconds = 0
        self.ratios = 0.0
        self.apart: Counter[str] = Counter()

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        input = F.pad(arguments[0].contiguous(), (self.padding,) * 4, value=-torch.inf)
        channels = input.size(1)
        windows = F.unfold(input, self.size, stride=self.stride).unflatten(1, (channels, -1))  # (N, C, KH*KW, OH*OW)
        values, places = windows.topk(2, dim=2)
        first, second = values[:, :, 0], values[:, :, 1]
        active = first > 0
        both = active & (second > 0)
        self.windows += active.numel()
        self.active += int(active.sum())
        self.seconds += int(both.sum())
        self.ratios += float((second.clamp_min(0) / first)[active].sum())
        rows, columns = places // self.size, places % self.size
        down = (rows[:, :, 0] - rows[:, :, 1]).abs()[both]
        across = (columns[:, :, 0] - columns[:, :, 1]).abs()[both]
        pairs = torch.maximum(down, across) * self.size + torch.minimum(down, across)
        for pair, count in Counter(pairs.tolist()).items():
            self.apart[f"{pair // self.size},{pair % self.size}"] += count

    def found(self) -> dict[str, Any]:
        return {
            "windows above 0": self.active / self.windows,
            "of them with a second above 0": self.seconds / self.active,
            "mean of second / largest": self.ratios / self.active,
            "pixels apart": {pair: count / self.seconds for pair, count in self.apart.most_common()},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=2000, help="of the test images")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = RunConfig.from_json(read_json(arguments.run / "config.json"))
    data = load_data(models.network(config.model), arguments.data, config.train_limit, arguments.images)
    experiment = Experiment(config, data)
    experiment.load_state_dict(read_checkpoint(arguments.run / "last.ckpt", "train it again")["state_dict"])
    layers = {}
    for name, module in experiment.network.named_modules():
        if isinstance(module, POOLS):
            layers[name] = Layer(module)
            module.register_forward_pre_hook(layers[name])
    experiment.tally(data.test)
    found = {"pooling": config.pooling, "seed": config.seed, **{name: layer.found() for name, layer in layers.items()}}
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
