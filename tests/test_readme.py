"""The README's examples run, one after another, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def _run(blocks: list[str]) -> dict[str, object]:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    return names


def test_the_examples_run(capsys):
    blocks = [block for block in BLOCKS if "torchvision" not in block]
    assert len(blocks) == 3
    names = _run(blocks)
    assert names["probs"].shape == names["once"].shape == (4, 10)
    assert (names["mutual_information"] >= 0).all()
    printed = capsys.readouterr().out
    assert "MaxPool2d" in printed
    assert "TandemConv2d" in printed


def test_the_example_of_other_libraries_networks_runs(timm, capsys):
    (block,) = [block for block in BLOCKS if "torchvision" in block]
    names = _run(["import empool\n" + block])
    assert "maxpool" in capsys.readouterr().out
    assert len(names["replaced"]) > 4


def test_the_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
