"""Studies: their order, their folder, going on after an interruption, and what they refuse."""

from __future__ import annotations

import dataclasses
import errno
import io
import json

import pytest
from filelock import FileLock
from rich.console import Console
from rich.text import Text

import tiny_data
from empool.lab import files
from empool.lab.errors import LabError
from empool.lab.execute import launch, study
from empool.lab.execute.launch import Local
from empool.lab.study.run import difference, folder_name, results
from empool.lab.watch import clock as clocks
from empool.lab.watch.clock import Clock
from empool.lab.watch.progress import Lines, Screen, duration, progress


def start(directory, poolings=("max", "ensemble:0.2"), seeds=(0, 1), config=None, progress=None, command="empool ..."):
    runs = study.plan(config or tiny_data.config(epochs=2), poolings, seeds)
    return study.run(directory, runs, tiny_data.data_set(), Local(), progress or Lines(io.StringIO()), command)


class Noted(Lines):
    """Remembers which runs were started; may be interrupted."""

    def __init__(self, interrupt=None):
        super().__init__(io.StringIO())
        self.runs = []
        self.interrupt = interrupt

    def started(self, config):
        super().started(config)
        self.runs.append((config.pooling, config.seed))
        if self.runs[-1] == self.interrupt:
            raise KeyboardInterrupt


ORDER = [("max", 0), ("ensemble:0.2", 0), ("max", 1), ("ensemble:0.2", 1)]


def keys(records):
    return [(record["pooling"], record["seed"]) for record in records]


def test_a_study_goes_seed_by_seed_and_gathers_its_results(tmp_path):
    noted = Noted()
    records = start(tmp_path / "new" / "study", progress=noted)
    assert noted.runs == keys(records) == ORDER
    assert json.loads((tmp_path / "new" / "study" / "results.json").read_text()) == records
    for pooling in ("max", "ensemble-0.2"):
        for seed in "01":
            names = {path.name for path in (tmp_path / "new" / "study" / pooling / seed).iterdir()}
            assert names == {"config.json", "metrics.csv", "last.ckpt", "result.json"}


def test_study_json_says_what_and_how(tmp_path):
    config = tiny_data.config(epochs=1)
    start(tmp_path, config=config, command="empool compare --seeds 2")
    content = json.loads((tmp_path / "study.json").read_text())
    assert content == {
        "command": "empool compare --seeds 2",
        "configuration": config.settings(),
        "poolings": ["max", "ensemble:0.2"],
        "seeds": [0, 1],
        "commands": [{"command": "empool compare --seeds 2", "poolings": ["max", "ensemble:0.2"], "seeds": [0, 1]}],
    }
    assert content["configuration"]["recipe"]["epochs"] == 1


def test_a_study_started_again_does_what_is_missing(tmp_path):
    noted = Noted(interrupt=("max", 1))
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, progress=noted)
    assert keys(json.loads((tmp_path / "results.json").read_text())) == ORDER[:2]
    first = (tmp_path / "max" / "0" / "result.json").read_text()
    again = Noted()
    assert keys(start(tmp_path, progress=again)) == ORDER
    assert again.runs == ORDER[2:]
    assert (tmp_path / "max" / "0" / "result.json").read_text() == first
    nothing = Noted()
    start(tmp_path, progress=nothing)
    assert nothing.runs == []


def test_poolings_and_seeds_can_be_added(tmp_path):
    start(tmp_path, seeds=(0,), command="first")
    noted = Noted()
    records = start(tmp_path, poolings=("average",), seeds=(0, 1), progress=noted, command="second")
    assert noted.runs == [("average", 0), ("average", 1)]
    assert keys(records) == [("max", 0), ("ensemble:0.2", 0), ("average", 0), ("average", 1)]
    content = json.loads((tmp_path / "study.json").read_text())
    assert (content["poolings"], content["seeds"]) == (["max", "ensemble:0.2", "average"], [0, 1])
    assert content["command"] == "second"
    start(tmp_path, poolings=("max",), seeds=(0,), command="third")  # adds nothing
    content = json.loads((tmp_path / "study.json").read_text())
    assert content["command"] == "second"
    assert content["commands"] == [
        {"command": "first", "poolings": ["max", "ensemble:0.2"], "seeds": [0]},
        {"command": "second", "poolings": ["average"], "seeds": [0, 1]},
    ]
    start(tmp_path, poolings=("max",), seeds=(1,), command="fourth")  # adds a run, but no pooling and no seed
    start(tmp_path, poolings=("max",), seeds=(0, 1, 2), command="fourth")
    content = json.loads((tmp_path / "study.json").read_text())
    assert [one["command"] for one in content["commands"]] == ["first", "second", "fourth"]
    assert content["commands"][-1]["seeds"] == content["seeds"] == [0, 1, 2]


def test_a_study_of_before_commands_were_kept_goes_on(tmp_path):
    start(tmp_path, seeds=(0,), command="first")
    content = json.loads((tmp_path / "study.json").read_text())
    del content["commands"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    start(tmp_path, poolings=("average",), seeds=(0,), command="second")
    assert json.loads((tmp_path / "study.json").read_text())["commands"] == [
        {"command": "first", "poolings": ["max", "ensemble:0.2"], "seeds": [0]},
        {"command": "second", "poolings": ["average"], "seeds": [0]},
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"train_limit": 30}, "train_limit = all, not 30"),
        ({"fingerprint": "f2"}, "fingerprint = f1, not f2"),
        ({"precision": "bfloat16"}, "precision = float32, not bfloat16"),
        ({"recipe": dataclasses.replace(tiny_data.config().recipe, epochs=9)}, "recipe.epochs = 2, not 9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_configuration_is_refused_and_changes_nothing(tmp_path, changes, field):
    start(tmp_path, poolings=("max",), seeds=(0,))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(LabError) as caught:
        start(tmp_path, config=dataclasses.replace(tiny_data.config(epochs=2), **changes))
    assert str(caught.value) == f"{tmp_path} holds a study with {field}: choose another --out, or delete that folder"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_the_device_is_no_part_of_the_configuration():
    config = tiny_data.config()
    assert difference(config.settings(), dataclasses.replace(config, device="cuda").settings()) is None


def test_settings_of_before_there_was_a_field_have_its_default():
    config = tiny_data.config()
    before = config.settings()
    del before["recipe"]["pool_size"], before["deterministic"]
    assert difference(config.settings(), before) is None
    for name, changed in (
        ("recipe.pool_size = 3, not 2", {"recipe": dataclasses.replace(config.recipe, pool_size=2)}),
        ("deterministic = False, not True", {"deterministic": True}),
    ):
        assert difference(dataclasses.replace(config, **changed).settings(), before) == name


def test_a_folder_with_strange_results_is_refused(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(LabError, match=r"holds runs but no study\.json: choose another --out"):
        start(tmp_path)


def test_a_folder_that_is_refused_keeps_its_files(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / ".results.json.7.tmp").write_text("[")
    with pytest.raises(LabError, match="holds runs but no study"):
        start(tmp_path)
    assert (tmp_path / ".results.json.7.tmp").read_text() == "["


def test_damaged_study_file_is_named(tmp_path):
    (tmp_path / "study.json").write_text('{"command"')
    with pytest.raises(LabError, match=r"study\.json is not valid JSON .*; delete it to start over"):
        start(tmp_path)


def test_a_second_process_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(LabError, match="another process is writing to"):
        start(tmp_path)
    assert len(start(tmp_path, seeds=(0,))) == 2


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot write to .*file"):
        start(tmp_path / "file")


def test_full_disk_is_said_in_one_line_and_finished_runs_stay(tmp_path, monkeypatch):
    replace = files.os.replace

    def full(source, target):
        if "ensemble" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(LabError) as caught:
        start(tmp_path)
    path = tmp_path / "ensemble-0.2" / "0" / "config.json"
    assert str(caught.value) == (
        f"no space left to write {path}: make room and start again, and the study goes on where it was"
    )
    assert keys(results(tmp_path)) == [("max", 0)]
    monkeypatch.undo()
    assert keys(start(tmp_path)) == ORDER


def test_a_run_that_diverges_does_not_stop_the_study(tmp_path):
    config = tiny_data.config(epochs=2)
    recipe = dataclasses.replace(config.recipe, learning_rate=1e30, normalisation="none")
    lines = io.StringIO()
    records = start(tmp_path, config=dataclasses.replace(config, recipe=recipe), progress=Lines(lines))
    assert [record["converged"] for record in records] == [False] * 4
    assert "[1/4] max, seed 0: did not converge" in lines.getvalue()
    assert "NaN" not in (tmp_path / "results.json").read_text()


@pytest.mark.parametrize(
    ("pooling", "name"),
    [("max", "max"), ("ensemble:0.1", "ensemble-0.1"), ("ordinal:0.7,0.3", "ordinal-0.7-0.3")],
)
def test_folder_names_suit_every_file_system(pooling, name):
    assert folder_name(pooling) == name


def test_lines_say_what_is_done_and_what_is_left(tmp_path):
    lines = io.StringIO()
    start(tmp_path, seeds=(0,), progress=Lines(lines))
    said = lines.getvalue().splitlines()
    assert said[0] == "2 runs"
    assert said[1].startswith("[1/2] max, seed 0: test error ")
    assert said[1].endswith(" left")
    assert said[2].startswith("[2/2] ensemble:0.2, seed 0: test error ")
    assert len(said) == 3
    again = io.StringIO()
    start(tmp_path, progress=Lines(again))
    assert again.getvalue().splitlines()[0] == "4 runs, 2 of them done already"


def test_screen_shows_what_runs_what_is_done_and_the_time_left(tmp_path):
    shown = []

    class Watched(Screen):
        def advanced(self, config, epochs, row):
            super().advanced(config, epochs, row)
            with self.console.capture() as capture:
                self.console.print(self.render())
            shown.append(capture.get())

    with Watched(Console(file=io.StringIO(), force_terminal=True, width=100)) as screen:
        records = start(tmp_path, progress=screen)
    last = shown[-1]
    for record in records[:3]:
        assert f"{record['test_error']:.2f}" in last
    assert "ensemble:0.2, seed 1: epoch 2 of 2  loss " in last
    assert "3 of 4 runs" in last
    assert " left" in last
    assert "seed 0" in shown[0]
    assert "seed 1" in shown[0]


def test_clock_estimates_from_runs_of_the_same_pooling():
    runs = study.plan(tiny_data.config(epochs=4), ["max", "average"], [0, 1])
    clock = Clock()
    clock.begin(runs, [])
    assert clock.seconds_left() is None
    clock.finish(runs[0], 10.0)
    assert clock.seconds_left() == pytest.approx(30.0)
    clock.finish(runs[1], 20.0)
    assert clock.seconds_left() == pytest.approx(30.0)
    clock.start(runs[2])
    clock.advance(runs[2], 1.0)
    assert clock.seconds_left() == pytest.approx(27.5)


def test_clock_counts_runs_that_go_side_by_side():
    runs = study.plan(tiny_data.config(epochs=4), ["max"], [0, 1, 2, 3, 4])
    clock = Clock()
    clock.begin(runs, [])
    for config in runs[:2]:
        clock.start(config)
    clock.finish(runs[0], 10.0)
    assert clock.seconds_left() == pytest.approx(20.0)  # four runs, two abreast
    clock.advance(runs[1], 2.0)
    clock.start(runs[2])
    assert clock.seconds_left() == pytest.approx(17.5)
    for config in runs[2:]:
        clock.finish(config, 10.0)
    assert clock.seconds_left() == pytest.approx(5.0)  # never less than the longest
    clock.start(runs[1])  # It died, and begins again.
    assert clock.seconds_left() == pytest.approx(10.0)


def test_screen_shows_runs_that_go_side_by_side():
    runs = study.plan(tiny_data.config(epochs=4), ["max", "average"], range(6))
    screen = Screen(Console(file=io.StringIO(), force_terminal=True, width=100))
    screen.begin(runs, [])
    for config in runs[:10]:
        screen.started(config)
    screen.advanced(runs[0], 1.0, None)
    screen.advanced(runs[1], 3.0, None)
    with screen.console.capture() as capture:
        screen.console.print(screen.render())
    shown = capture.get()
    assert "max, seed 0: epoch 2 of 4" in shown
    assert "average, seed 0: epoch 4 of 4" in shown
    assert "25%" in shown
    assert "75%" in shown
    assert "and 2 more" in shown


@pytest.fixture
def time_passes(monkeypatch):
    """Give a function that moves the clock on."""
    now = [1000.0]

    def pass_time(seconds):
        now[0] += seconds

    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])
    return pass_time


def test_clock_measures_images_per_second_of_the_training_alone(time_passes):
    run, other = study.plan(tiny_data.config(epochs=4), ["max", "average"], [0])
    clock = Clock()
    clock.begin([run, other], [], images=1000)
    clock.start(run)
    assert clock.speed(run) is None
    clock.advance(run, 0.1)
    time_passes(0.5)
    clock.advance(run, 0.2)
    assert clock.speed(run) is None  # Too soon to tell.
    time_passes(1.5)
    clock.advance(run, 0.5)
    assert clock.speed(run) == pytest.approx(1000 * 0.4 / 2)
    time_passes(60)  # The test.
    clock.advance(run, 1.0, {"images_per_second": 250.0})
    assert clock.speed(run) == 250.0
    clock.advance(run, 1.1)
    time_passes(2)
    clock.advance(run, 1.3)
    assert clock.speed(run) == pytest.approx(1000 * 0.2 / 2)
    assert clock.speed(other) is None
    clock.finish(run, 100.0)
    assert clock.speed(run) is None


def test_lines_tell_images_per_second(time_passes):
    (run,) = study.plan(tiny_data.config(epochs=4), ["max"], [0])
    lines = io.StringIO()
    shown = Lines(lines)
    shown.begin([run], [], 1000)
    shown.started(run)
    shown.advanced(run, 0.5, None)
    time_passes(40)
    shown.advanced(run, 0.9, None)
    assert lines.getvalue().splitlines()[-1].startswith("max, seed 0: epoch 1 of 4, 10 images/s, about ")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_screen_keeps_all_it_shows_on_a_narrow_terminal(width):
    runs = study.plan(tiny_data.config(epochs=20), ["max", "stochastic-max:0.5"], range(5))
    screen = Screen(Console(file=io.StringIO(), force_terminal=True, width=width))
    screen.begin(runs, [], 1000)
    row = {"train_loss": 1.2345, "train_error": 45.3, "test_error": 40.1, "images_per_second": 1234.0}
    for config in runs[6:8]:
        screen.started(config)
        screen.advanced(config, 3.0, row)
    with screen.console.capture() as capture:
        screen.console.print(screen.render())
    shown = Text.from_ansi(capture.get()).plain
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert (
        " ".join(shown.split()).count(
            "seed 3: epoch 4 of 20 loss 1.234 training error 45.3 % test error 40.1 % 1,234 images/s"
        )
        == 2
    )
    assert " 0 of 10 runs" in shown
    assert "seed 3 ┃" in shown


@pytest.mark.parametrize(("terminal", "kind"), [("xterm", Screen), ("dumb", Lines)])
def test_a_terminal_that_cannot_take_lines_back_gets_lines(monkeypatch, terminal, kind):
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress(), kind)


@pytest.mark.parametrize(("seconds", "words"), [(3.14, "3.1 s"), (42, "42 s"), (150, "2 min"), (12_000, "3 h 20 min")])
def test_duration_is_written_as_people_say_it(seconds, words):
    assert duration(seconds) == words


def test_what_only_a_cluster_takes_is_refused():
    assert isinstance(launch.launcher("local", None, None, None), Local)
    for name, given in {"--address": ("a:1", None, None), "--cpus-per-run": (None, 2, None)}.items():
        with pytest.raises(LabError, match=f"{name} is for --launcher ray"):
            launch.launcher("local", *given)
    with pytest.raises(LabError, match="--gpus-per-run is for --launcher ray"):
        launch.launcher("local", None, None, 0.0)
