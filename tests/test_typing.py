"""A strictly typed program that uses the public interface: py.typed is honoured, and right use needs no cast."""

from __future__ import annotations

import mypy.api

RIGHT = """
import torch
from torch import Tensor, nn

import empool
from empool import functional as EF

pool = empool.EnsembleMaxPool2d(3, stride=2, padding=1, p=0.1)
net: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), pool, empool.RankPool2d(2, distribution=empool.Ordinal((0.7, 0.3))))
pooling: empool.Pooling = empool.pooling("ensemble:0.1")
names: list[str] = [name for name, old, new in empool.convert_(net, pooling, strided_convs=True)]
names = empool.set_p(net, 0.2)
output: Tensor = EF.ensemble_max_pool2d(torch.zeros(1, 3, 8, 8), (2, 2), p=0.3, seed=1)
entropy: Tensor = empool.monte_carlo(net, torch.zeros(1, 3, 32, 32), samples=2).entropy
model: nn.Module = empool.models.create("cnn", num_classes=10, pooling=empool.Max())
kernels: dict[str, dict[str, str]] = empool.kernels()
"""
WRONG = {
    'empool.EnsembleMaxPool2d("2")': "arg-type",
    'empool.EnsembleMax(p="0.1")': "arg-type",
    'empool.models.create("cnn", num_classes="10")': "arg-type",
    "empool.ensemble_pool2d": "attr-defined",
}


def test_wrong_use_is_found_and_right_use_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "consumer.py").write_text(RIGHT + "\n".join(WRONG))
    out, _, _ = mypy.api.run(["--strict", "--config-file", "/dev/null", "consumer.py"])
    found = {int(line.split(":")[1]): line.rpartition("[")[2].rstrip("]") for line in out.splitlines()[:-1]}
    assert found == dict(enumerate(WRONG.values(), RIGHT.count("\n") + 1)), out
