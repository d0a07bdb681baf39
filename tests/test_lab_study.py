"""Studies: their order, their folder, going on after an interruption, and what they refuse."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

import tiny_data
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, difference, folder_name, planned, poolings
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
    config, folder = tiny_data.config(epochs=2), tmp_path / "new" / "study"
    records = start(folder, config=config, progress=noted, command="empool compare --seeds 2")
    assert noted.seen == keys(records) == ORDER
    assert json.loads((folder / "results.json").read_text()) == records
    for run in ("max/0", "max/1", "ensemble-0.2/0", "ensemble-0.2/1"):
        names = {path.name for path in (folder / run).iterdir()}
        assert names == {"config.json", "metrics.csv", "last.ckpt", "result.json"}
    typed = {"command": "empool compare --seeds 2", "poolings": ["max", "ensemble:0.2"], "seeds": [0, 1]}
    assert json.loads((folder / "study.json").read_text()) == {
        **typed,
        "configuration": config.settings(),
        "commands": [typed],
    }


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
    content = json.loads((tmp_path / "study.json").read_text())
    del content["commands"]  # As studies were before they were kept.
    (tmp_path / "study.json").write_text(json.dumps(content))
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


def test_another_configuration_is_refused_and_changes_nothing(tmp_path):
    start(tmp_path, poolings=("max",), seeds=(0,))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    for field, changes in {
        "other images than tiny has now": {"fingerprint": "f2"},
        "train_limit = all, not 30": {"train_limit": 30},
        "precision = float32, not bfloat16": {"precision": "bfloat16"},
        "recipe.epochs = 2, not 9": {"recipe": dataclasses.replace(tiny_data.config().recipe, epochs=9)},
    }.items():
        with pytest.raises(LabError) as caught:
            start(tmp_path, config=dataclasses.replace(tiny_data.config(epochs=2), **changes))
        said = f"{tmp_path} holds a study with {field}: choose another --out, or delete that folder"
        assert str(caught.value) == said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_settings_of_before_there_was_a_field_have_its_default_and_the_device_is_none_of_them():
    config = tiny_data.config()
    before = dataclasses.replace(config, device="cuda").settings()
    del before["recipe"]["pool_size"], before["deterministic"], before["compile"], before["p_schedule"]
    assert difference(config.settings(), before) is None
    for name, changes in (
        ("recipe.pool_size = 3, not 2", {"recipe": dataclasses.replace(config.recipe, pool_size=2)}),
        ("deterministic = False, not True", {"deterministic": True}),
        ("compile = False, not True", {"compile": True}),
        ("p_schedule = constant, not anneal:0", {"p_schedule": "anneal:0"}),
    ):
        other = dataclasses.replace(config, **changes)
        assert difference(other.settings(), before) == name
        assert RunConfig.from_json(json.loads(json.dumps(other.to_json()))) == other


def test_a_folder_that_is_refused_keeps_its_files(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / ".results.json.7.tmp").write_text("[")
    with pytest.raises(LabError, match="holds results without their runs: choose another --out"):
        start(tmp_path)
    assert (tmp_path / ".results.json.7.tmp").read_text() == "["


def test_commas_part_poolings_and_the_numbers_of_one():
    spelled = "max, ordinal:0.7, 0.3,ensemble:.1,max@milestones=0.5,0.75@epochs=5,max"
    read = ["max", "ordinal:0.7,0.3", "ensemble:0.1", "max@milestones=0.5,0.75@epochs=5"]
    assert poolings(spelled, "cnn") == read
    assert [folder_name(pooling) for pooling in read[:3]] == ["max", "ordinal-0.7-0.3", "ensemble-0.1"]


def test_a_smaller_plan_takes_the_place_of_one_that_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, seeds=range(200), progress=Noted(interrupt=("max", 1)), command="seeds 200")
    start(tmp_path, seeds=(0, 1), command="seeds 2")
    content = json.loads((tmp_path / "study.json").read_text())
    assert (content["seeds"], planned(content["commands"])) == ([0, 1], set(ORDER))


def test_json_of_another_shape_is_named_and_study_json_is_written_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, progress=Noted(interrupt=("ensemble:0.2", 0)))
    study, result, config = (tmp_path / name for name in ("study.json", "max/0/result.json", "max/0/config.json"))
    whole = json.loads(study.read_text())
    junk = {"configuration": [1], "commands": [1, *whole["commands"]], "poolings": 3, "seeds": ["0"], "command": None}
    damaged = [json.dumps({**whole, field: value}) for field, value in junk.items()]
    for path, contents, said in (
        (study, ["[]", "{}", *damaged], ".*: expected .*, got .*; delete it, and the study's command writes it again"),
        (result, ["[]", "{}", '{"pooling": "max", "seed": "0"}'], ": expected .*; delete it, and the study's .* again"),
        (result, ['{"pooling": "max", "seed": 1}'], " is of max, seed 1: put it back or delete it to start over"),
        (study, ['{"command"'], " is not valid JSON .*; delete it, and the study's command writes it again"),
    ):
        for content in contents:
            before = path.read_text()
            path.write_text(content)
            with pytest.raises(LabError, match=rf"{path.name}{said}$"):
                start(tmp_path)
            path.write_text(before)
    study.unlink()
    with pytest.raises(LabError, match="holds a study with precision = float32, not bfloat16"):
        start(tmp_path, config=tiny_data.config(epochs=2, precision="bfloat16"))
    start(tmp_path)
    assert json.loads(study.read_text()) == whole
    result.unlink()
    config.write_text("[]")  # The checkpoint says the same.
    start(tmp_path)
    assert json.loads(config.read_text()) == tiny_data.config(epochs=2).to_json()
