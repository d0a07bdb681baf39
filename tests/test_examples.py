"""The examples run as a reader would run them, only shorter, and what they print is well above chance."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tiny_data import python_path

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program in this process, and return what it printed."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "path", sys.path[:])  # What a program adds is not for the tests after it.
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # As for a reader, who is only told.
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def _numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


def test_training_loop(run):
    mean = run("training_loop.py", "--epochs", "2", "--seeds", "1").splitlines()[-1]
    errors = _numbers(r"(?:max|ensemble) ([\d.]+) %", mean)
    assert len(errors) == 2
    assert max(errors) < 75  # by chance 90


def test_finetune(run):
    first, *_, gain = run("finetune.py", "--epochs", "1", "--seeds", "1").splitlines()
    assert first.split() == ["module", "was", "is", "now"]
    assert re.fullmatch(r"converted has -?[\d.]+ points lower error", gain)


def test_lightning_module(run):
    printed = run("lightning_module.py", "--epochs", "4")
    assert _numbers(r"p ([\d.]+),", printed) == [0.15, 0.3, 0.3, 0.3]
    errors = _numbers(r"test error ([\d.]+) %", printed)
    assert errors[-1] < 45  # by chance 90
    assert errors[-1] < errors[0]


@pytest.mark.parametrize(
    ("arguments", "replaced"),
    [
        (("--model", "test_resnet", "--epochs", "4"), "EnsembleMaxPool2d(p=0.1)"),
        (
            ("--model", "test_efficientnet", "--epochs", "4", "--strided-convs"),
            "TandemConv2d(EnsembleMaxPool2d(p=0.1))",
        ),
    ],
    ids=["max-pooling", "strided convolutions"],
)
def test_finetune_timm(timm, run, arguments, replaced):
    printed = run("finetune_timm.py", *arguments)
    assert replaced in printed
    assert "the same keys" in printed
    before, after = _numbers(r"test error ([\d.]+) %", printed)
    assert after < 60 < before  # by chance 90


def test_finetune_timm_finds_what_make_setup_installed():
    if not (Path(sys.prefix) / "imagenet" / "timm").is_dir():
        pytest.skip("timm is not beside this environment")
    environment = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / "finetune_timm.py"), "--model", "test_resnet", "--epochs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "EnsembleMaxPool2d(p=0.1)" in done.stdout


def test_finetune_timm_from_weights(timm, run, monkeypatch, tmp_path):
    learned = timm.create_model("test_resnet")
    torch.save(learned.state_dict(), tmp_path / "weights.pth")
    create = timm.create_model
    loaded = []

    def from_file(*args, **kwargs):
        assert kwargs["pretrained"]
        net = create(*args, **kwargs, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")})
        loaded.append(net.layer1[0].conv1.weight.detach().clone())
        return net

    monkeypatch.setattr(timm, "create_model", from_file)
    run("finetune_timm.py", "--model", "test_resnet", "--epochs", "1", "--pretrained")
    (weight,) = loaded
    torch.testing.assert_close(weight, learned.layer1[0].conv1.weight.detach(), rtol=0, atol=0)


def test_segmentation(run):
    printed = run("segmentation.py", "--epochs", "3")
    background, mean = (_numbers(rf"{name} ([\d.]+)", printed) for name in ("background", "mean IoU"))
    assert len(background) == len(mean) == 2
    assert min(background) > 0.85
    assert min(mean) > 0.3  # 0.2 where all is background


def test_audio(run):
    errors = _numbers(r"test error ([\d.]+) %", run("audio.py", "--epochs", "2"))
    assert len(errors) == 2
    assert max(errors) < 50  # by chance 83


def test_uncertainty(run):
    *rows, mean, information = run("uncertainty.py", "--epochs", "4", "--seeds", "1").splitlines()[1:]
    found = {row.partition(":")[0]: _numbers(r"([\d.]+) \(", row) for row in rows}
    assert set(found) == {"digits 8 and 9", "inverted", "noise"}
    assert min(found["digits 8 and 9"]) > 0.6  # by chance 0.5
    for column, said in ((1, mean), (2, information)):
        gains = dict(re.findall(r"(\w[\w ]*) ([+-][\d.]+) ±", said.partition(":")[2]))
        assert set(gains) == set(found)
        for kind, (once, *_) in found.items():
            assert float(gains[kind]) == pytest.approx(found[kind][column] - once, abs=0.002)


def test_the_list_has_every_program():
    listed = re.findall(r"\]\((?:\./)?(\w+\.(?:py|ipynb))\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.[pi][yp]*"))
