"""The drawing of the two phases: its numbers come from the layers, and it lands where it is asked for."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.testing import assert_close

from empool.lab.cli.show import compute, picture, show
from empool.lab.errors import LabError


def test_window() -> None:
    phases = compute(p=0.4, seed=0)
    assert phases.window.tolist() == [[2.0, 9.0], [7.0, 1.0]]
    assert (phases.largest, phases.second) == (9.0, 7.0)
    assert_close(phases.expectation, 8.2, rtol=1e-6, atol=0)  # 0.6 * 9 + 0.4 * 7


def test_image() -> None:
    phases = compute(p=0.4, seed=0)
    windows = phases.image.unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4, 4)
    first, second = windows.sort(dim=-1, descending=True).values[..., :2].unbind(-1)
    assert_close(phases.maximum, first, rtol=0, atol=0)
    assert_close(phases.mean, 0.6 * first + 0.4 * second)
    for draw in phases.draws:
        assert bool(((draw == first) | (draw == second)).all())
        assert bool((draw != first).any())
    assert not torch.equal(*phases.draws)


def test_the_seed_decides_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    once, again, other = compute(0.4, 0), compute(0.4, 0), compute(0.4, 1)
    assert_close(torch.rand(1), expected, rtol=0, atol=0)
    assert torch.equal(once.draws[0], again.draws[0])
    assert not torch.equal(once.draws[0], other.draws[0])


def test_terminal() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        show(console=console)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("(1-p) a1 + p a2 = 0.6 * 9 + 0.4 * 7 = 8.2" in line for line in lines)
    stars = sum(line.count("*") for line in lines[-4:])
    phases = compute(0.4, 0)
    assert stars == sum(int((draw != phases.maximum).sum()) for draw in phases.draws)


def test_svg(tmp_path: Path) -> None:
    show(tmp_path / "emp.svg")
    text = (tmp_path / "emp.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    words = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Training: sample", "the second largest", "8.2", "max-pooling"} <= words
    assert "@media(prefers-color-scheme:dark)" in text
    assert [path.name for path in tmp_path.iterdir()] == ["emp.svg"]


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG\r\n"), (".pdf", b"%PDF-")])
def test_other_formats(suffix: str, head: bytes) -> None:
    content = picture(compute(0.4, 0), suffix)
    assert content.startswith(head)
    assert content == picture(compute(0.4, 0), suffix)


@pytest.mark.parametrize("name", ["emp.gif", "emp"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match=r"expected a file name that ends in \.png, \.svg or \.pdf"):
        show(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_p_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\], got 1\.5"):
        show(p=1.5)
