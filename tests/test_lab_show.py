"""What the terminal shows: the drawing of training and inference, and a study while it runs."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from rich.text import Text
from torch.testing import assert_close

import tiny_data
from empool.lab.cli.show import compute, show
from empool.lab.watch import progress as watch
from empool.lab.watch.progress import Progress, duration


def test_the_numbers_come_from_the_layers_and_the_seed_decides():
    before = torch.get_rng_state()
    outputs, image, pooled = compute(p=0.4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert outputs == pytest.approx([9.0, 7.0, 8.2])  # 0.6 * 9 + 0.4 * 7
    windows = image.unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4, 4)
    first, second = windows.sort(dim=-1, descending=True).values[..., :2].unbind(-1)
    maximum, one, other, mean = pooled
    assert_close(maximum, first, rtol=0, atol=0)
    assert_close(mean, 0.6 * first + 0.4 * second)
    for sample in (one, other):
        assert bool(((sample == first) | (sample == second)).all())
        assert bool((sample != first).any())
    assert not torch.equal(one, other)
    again, different = (compute(0.4, seed)[2][1] for seed in (0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, different)


def test_the_drawing_fits_a_terminal():
    console = Console(width=80, color_system=None, file=io.StringIO())
    show(console=console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("(1-p) a1 + p a2 = 0.6 * 9 + 0.4 * 7 = 8.2" in line for line in lines)
    maximum, *sampled, _ = compute(0.4, 0)[2]
    stars = sum(line.count("*") for line in lines[-4:])
    assert stars == sum(int((sample != maximum).sum()) for sample in sampled)


def test_a_screen_shows_what_runs_what_is_done_and_the_time_left(tmp_path):
    shown = []

    class Watched(Progress):
        def advanced(self, run, epochs, row):
            super().advanced(run, epochs, row)
            with self.console.capture() as capture:
                self.console.print(self.bars.get_renderable())
            shown.append(Text.from_ansi(capture.get()).plain)

    terminal = io.StringIO()
    runs = tiny_data.plan(tiny_data.config(epochs=2), ("max", "ensemble:0.2"))
    tiny_data.study(tmp_path, runs, progress=Watched(console=Console(file=terminal, force_terminal=True, width=150)))
    assert "max, seed 0" in shown[0]
    assert "max, seed 0" not in shown[-1]
    assert " left" in shown[-2]
    assert all(part in shown[-1] for part in ("ensemble:0.2, seed 0", "epoch 2 of 2, loss ", "1 of 2 runs"))
    assert "[2/2] ensemble:0.2, seed 0: test error " in Text.from_ansi(terminal.getvalue()).plain


@pytest.fixture
def time_passes(monkeypatch):
    """Give a function that moves the clock on."""
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_time_left_is_that_of_the_epochs_left_at_the_speed_so_far(time_passes):
    run, other, third = tiny_data.plan(tiny_data.config(epochs=4), ("max", "average", "stochastic"))
    shown = Progress(quiet=True)
    shown.begin([run, other, third], [run, other])
    assert shown.rest() == ""
    shown.started(run)
    shown.advanced(run, 2.0, None)  # It goes on from there.
    time_passes(10)
    shown.advanced(run, 3.0, None)
    assert shown.rest() == ", about 50 s left"  # 10 * (1 + 4)
    shown.started(other)
    time_passes(10)
    shown.advanced(run, 4.0, None)
    shown.advanced(other, 0.0, None)
    assert shown.rest() == ", about 40 s left"
    shown.started(run)  # It died, and begins again.
    shown.advanced(run, 0.0, None)
    assert shown.rest() == ", about 80 s left"


def test_lines_tell_how_far_a_long_run_is(time_passes):
    (run,) = tiny_data.plan(tiny_data.config(epochs=4), ("max",))
    shown = Progress(lines := io.StringIO())
    shown.begin([run], [run])
    shown.started(run)
    shown.advanced(run, 0.5, None)
    time_passes(40)
    row = {"train_loss": 1.2345, "train_error": 45.3, "test_error": 40.1, "images_per_second": 1234.0}
    shown.advanced(run, 1.0, row)
    errors = "training error 45.3 %, test error 40.1 %"
    said = f"max, seed 0: epoch 2 of 4, loss 1.234, {errors}, 1,234 images/s, about 4 min left"
    assert lines.getvalue().splitlines()[-1] == said


def test_a_terminal_that_cannot_take_lines_back_gets_lines_and_durations_are_words(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for terminal, drawn in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", terminal)
        assert Progress().console.is_interactive == drawn
    assert [duration(seconds) for seconds in (3.14, 42, 150, 12_000)] == ["3.1 s", "42 s", "2 min", "3 h 20 min"]
