"""Studies: their order, their folder, going on after an interruption, and what they refuse."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

import tiny_data
from empool.lab.errors import LabError
from empool.lab.study.run import difference, folder_name, planned
from empool.lab.watch.progress import Progress


def start(directory, poolings=("max", "ensemble:0.2"), seeds=(0, 1), config=None, progress=None, command="empool ..."):
    runs = tiny_data.plan(config or tiny_data.config(epochs=2), poolings, seeds)
    return tiny_data.study(directory, runs, progress=progress, command=command)


class Noted(Progress):
    """Remembers which runs were started; may be interrupted."""

    def __init__(self, interrupt=None):
        super().__init__(io.StringIO())
        self.seen = []
        self.interrupt = interrupt

    def started(self, config):
        super().started(config)
        self.seen.append((config.pooling, config.seed))
        if self.seen[-1] == self.interrupt:
            raise KeyboardInterrupt


ORDER = [("max", 0), ("ensemble:0.2", 0), ("max", 1), ("ensemble:0.2", 1)]


def keys(records):
    return [(record["pooling"], record["seed"]) for record in records]


def test_a_study_goes_seed_by_seed_and_gathers_its_results(tmp_path):
    noted = Noted()
    records = start(tmp_path / "new" / "study", progress=noted)
    assert noted.seen == keys(records) == ORDER
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
    assert again.seen == ORDER[2:]
    assert (tmp_path / "max" / "0" / "result.json").read_text() == first
    nothing = Noted()
    start(tmp_path, progress=nothing)
    assert nothing.seen == []


def test_poolings_and_seeds_can_be_added(tmp_path):
    start(tmp_path, seeds=(0,), command="first")
    noted = Noted()
    start(tmp_path, poolings=("average",), seeds=(0, 1), progress=noted, command="second")
    assert noted.seen == [("average", 0), ("average", 1)]
    records = json.loads((tmp_path / "results.json").read_text())
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


def test_a_run_that_diverges_does_not_stop_the_study(tmp_path):
    config = tiny_data.config(epochs=2)
    recipe = dataclasses.replace(config.recipe, learning_rate=1e30, normalisation="none")
    lines = io.StringIO()
    records = start(tmp_path, config=dataclasses.replace(config, recipe=recipe), progress=Progress(lines))
    assert [record["converged"] for record in records] == [False] * 4
    assert "[1/4] max, seed 0: did not converge" in lines.getvalue()
    assert "NaN" not in (tmp_path / "results.json").read_text()


@pytest.mark.parametrize(
    ("pooling", "name"),
    [("max", "max"), ("ensemble:0.1", "ensemble-0.1"), ("ordinal:0.7,0.3", "ordinal-0.7-0.3")],
)
def test_folder_names_suit_every_file_system(pooling, name):
    assert folder_name(pooling) == name


def test_a_smaller_plan_takes_the_place_of_one_that_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, seeds=range(200), progress=Noted(interrupt=("max", 1)), command="seeds 200")
    start(tmp_path, seeds=(0, 1), command="seeds 2")
    content = json.loads((tmp_path / "study.json").read_text())
    assert content["seeds"] == [0, 1]
    assert planned(content["commands"]).keys() == set(ORDER)


@pytest.mark.parametrize("name", ["study.json", "max/0/result.json", "max/0/config.json"])
@pytest.mark.parametrize("content", ["[]", "{}", "3"])
def test_json_of_another_shape_is_named(tmp_path, name, content):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, progress=Noted(interrupt=("ensemble:0.2", 0)))
    (tmp_path / name).write_text(content)
    if "config" in name:
        (tmp_path / "max/0/result.json").unlink()
    with pytest.raises(LabError, match=rf"{name} is not what empool writes: expected an object.*; delete it"):
        start(tmp_path)
