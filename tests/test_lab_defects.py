"""Defects that users met at the command line, each mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from empool.lab import cli

SMALL = ["--epochs", "1", "--train-limit", "100", "--device", "cpu", "--recipe", "width=4"]


def run(capsys, *arguments, code=0):
    assert cli.main(arguments) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_empool_alone_shows_its_help(capsys):
    assert "Usage: empool" in run(capsys)


@pytest.mark.parametrize("command", ["compare", "train", "reproduce"])
def test_help_fits_and_keeps_its_brackets(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(capsys, command, "--help")
    assert len(shown.splitlines()) < 70
    assert max(map(len, shown.splitlines())) <= 80
    if command != "train":
        assert "empool[ray]" in " ".join(shown.split())
    if command != "reproduce":
        assert "learning_rate" in shown


def test_milestones_are_taken_as_they_are_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, spelled in enumerate(("(0.5, 0.75)", "0.5,0.75")):
        schedule = ["--recipe", "schedule=step", "--recipe", f"milestones={spelled}"]
        run(capsys, "train", *SMALL, *schedule, "--out", str(number))
        recipe = json.loads(Path(str(number), "study.json").read_text())["configuration"]["recipe"]
        assert recipe["milestones"] == [0.5, 0.75]


def test_a_logger_is_told_of_runs_that_had_ended(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    small = ["compare", *SMALL, "--seeds", "1", "--poolings", "max", "--out", "study"]
    run(capsys, *small)
    for _ in range(2):
        run(capsys, *small, "--logger", "tensorboard")
        assert len(list(Path("study/max/0").glob("events.*"))) == 1
