"""Defects that users met at the command line, each mended."""

from __future__ import annotations

import pytest

import tiny_data
from empool.lab import cli
from empool.lab.watch.loggers import Loggers


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


def test_a_logger_is_told_of_runs_that_had_ended(tmp_path):
    pytest.importorskip("tensorboard")
    run = tiny_data.config(epochs=1)
    tiny_data.study(tmp_path, [run])
    for _ in range(2):
        tiny_data.study(tmp_path, [run], loggers=Loggers(["tensorboard"]))
        assert len(list((tmp_path / "max/0").glob("events.*"))) == 1
