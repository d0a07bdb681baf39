"""Inference rules on trained networks: the expectation, members drawn and averaged, plain max."""

from __future__ import annotations

import errno
import json
import shutil
import weakref
from unittest.mock import Mock

import pytest
import torch
from filelock import FileLock, Timeout

import empool
import tiny_data
from empool.lab import cli
from empool.lab.analyse import evaluate as evaluation
from empool.lab.analyse.evaluate import evaluate
from empool.lab.analyse.records import read_evaluation
from empool.lab.data import sources
from empool.lab.errors import LabError
from empool.lab.report.sheets import rules
from empool.lab.train.batches import Normaliser
from empool.lab.train.experiment import make_network
from empool.lab.train.loop import fit
from empool.lab.train.metrics import Tally


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Let the data set of `tiny_data` be one with a name."""
    monkeypatch.setitem(sources.KNOWN, "tiny", sources.KNOWN["digits"])
    monkeypatch.setattr("empool.lab.analyse.evaluate.load_data", lambda *_, **options: tiny_data.data_set())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train a study of two poolings and two seeds."""
    directory = tmp_path_factory.mktemp("finished")
    tiny_data.study(directory, tiny_data.plan(tiny_data.config(epochs=1), ["stochastic-max:0.5", "max"], [0, 1]))
    return directory


@pytest.fixture
def study(finished, tmp_path):
    """Give a finished study to spoil."""
    return shutil.copytree(finished, tmp_path / "study")


@pytest.fixture
def folder(study):
    """Give a finished run to spoil."""
    return study / "max" / "0"


def run(directory, samples=8, poolings=None):
    return evaluate(directory, samples=samples, source=None, device="cpu", poolings=poolings, label_column=None)


def written(directory):
    return json.loads((directory / "evaluation.json").read_text())


def scores(record):
    return {name: record[f"test_{name}"] for name in ("error", "nll", "ece", "top5_error")}


def known(scores):
    """Leave out the top-5 error that three classes do not have."""
    return {name: value for name, value in scores.items() if value is not None}


def test_every_rule_is_what_it_says(tmp_path):
    config, data = tiny_data.config("max-dropout:0.5"), tiny_data.data_set()
    result = fit(config, data, tmp_path)
    folder = config.folder(tmp_path)
    (record,) = run(folder, samples=60)
    assert (record["expectation"], record["calibration"]) == (scores(result), result["calibration"])
    said = {"data": "tiny", "model": "cnn", "pooling": "max-dropout:0.5", "p": 0.5, "seed": 0, "draws": True}
    assert record.items() >= {**said, "samples": 60, "test_images": 18}.items()
    assert written(folder) == [record]

    normaliser = Normaliser(data.mean, data.std, "cpu")
    images, labels = normaliser.plain(data.test.images), data.test.labels
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]

    def network(pooling):
        made = make_network(tiny_data.config(pooling), data)
        made.load_state_dict({name.removeprefix("network."): weight for name, weight in state.items()})
        return made.eval()

    def tested(network):
        tally = Tally(3, "cpu")
        with torch.no_grad():
            tally.add_logits(network(images), labels)
        return pytest.approx(known(tally.scores()._asdict()), rel=1e-4)

    assert known(record["plain_max"]) == tested(network("max"))
    recalibrated = network("max-dropout:0.5")
    empool.recalibrate_(recalibrated, [normaliser.plain(data.train.images)])
    assert known(record["recalibrated"]) == tested(recalibrated)
    members = network("max-dropout:0.5")
    for module in members.modules():
        module.training = isinstance(module, empool.MaxPoolDropout2d)
    with torch.no_grad():
        probs = torch.stack([members(images).softmax(1) for _ in range(60)]).mean(0)
    expected = -probs[torch.arange(18), labels].log().mean().item()
    assert record["monte_carlo"]["nll"] == pytest.approx(expected, rel=0.05)  # 60 other members
    assert len({round(record[rule]["nll"], 3) for rule in evaluation.RULES}) == 4
    # One of before a rule is read, and done again, with the same members.
    old = {name: value for name, value in record.items() if name not in ("recalibrated", "rules")}
    (folder / "evaluation.json").write_text(json.dumps([old]))
    assert read_evaluation(folder) == [{**old, "recalibrated": None}]
    assert run(folder, samples=60) == [record]
    assert run(folder, samples=1)[0]["monte_carlo"] != record["monte_carlo"]


def test_with_p_annealed_to_0_all_rules_agree_and_weights_of_nan_have_no_likelihood(tmp_path):
    config = tiny_data.config("ensemble:0.4", p_schedule="anneal:0")
    result = fit(config, tiny_data.data_set(), tmp_path)
    (record,) = run(config.folder(tmp_path))
    assert record["p"] == 0
    assert record["expectation"] == record["plain_max"] == scores(result)
    assert known(record["monte_carlo"]) == pytest.approx(known(record["expectation"]), rel=1e-5)
    path = config.folder(tmp_path) / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for weight in checkpoint["state_dict"].values():
        if weight.is_floating_point():
            weight.fill_(torch.nan)
    torch.save(checkpoint, path)
    (record,) = run(config.folder(tmp_path))
    for rule in ("expectation", "monte_carlo", "plain_max"):
        assert record[rule] == {"nll": None, "error": pytest.approx(100 * 2 / 3), "ece": None, "top5_error": None}


def test_all_finished_runs_of_a_study_are_evaluated(study, caplog, monkeypatch):
    (study / "max" / "1" / "result.json").unlink()
    make, made = evaluation.Experiment, []

    def noted(*arguments):
        assert not any(experiment() for experiment in made)  # Networks that were evaluated are let go.
        experiment = make(*arguments)
        made.append(weakref.ref(experiment))
        return experiment

    monkeypatch.setattr(evaluation, "Experiment", noted)
    with caplog.at_level("INFO", "empool.lab.analyse.evaluate"):
        records = run(study)
    places = [(record["pooling"], record["seed"], record["draws"]) for record in records]
    assert places == [("stochastic-max:0.5", 0, True), ("stochastic-max:0.5", 1, True), ("max", 0, False)]
    assert caplog.messages[0] == f"{study / 'max' / '1'} is not finished: left out"
    assert [record["monte_carlo"] is None for record in records] == [False, False, True]
    assert written(study) == records
    notes = rules(records).notes
    assert [note.partition(":")[0] for note in notes] == ["expectation", "recalibrated", "Monte Carlo", "Points", "max"]
    assert notes[2] == "Monte Carlo: the mean of the probabilities of 8 sub-networks, sampled for every image anew."


def test_what_was_evaluated_is_not_evaluated_again(study, monkeypatch, caplog):
    shutil.rmtree(study / "stochastic-max-0.5" / "1")
    evaluated, whole = [], evaluation._evaluate

    def until_the_second(folder, *arguments):
        evaluated.append(f"{folder.parent.name}/{folder.name}")
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return whole(folder, *arguments)

    monkeypatch.setattr(evaluation, "_evaluate", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(study)
    assert len(written(study)) == 1
    caplog.clear()
    with caplog.at_level("INFO", "empool.lab.analyse.evaluate"):
        records = run(study)
    assert evaluated == ["stochastic-max-0.5/0", *["max/0"] * 2, "max/1"]
    assert caplog.messages == ["stochastic-max:0.5, seed 0: evaluated before", "max, seed 0", "max, seed 1"]
    # Poolings that are not asked for stay as they are; other members are another evaluation, and so are other weights.
    assert run(study, samples=2, poolings="max") == records[1:]
    assert sorted(written(study), key=str) == sorted(records, key=str)
    with pytest.raises(LabError, match=r"holds no finished run with average, ordinal:0\.7,0\.3$"):
        run(study, poolings="max,average,ordinal:0.7,0.3")
    shutil.copy(study / "max/0/last.ckpt", study / "max/1/last.ckpt")
    again = run(study, samples=2)
    assert evaluated[4:] == ["stochastic-max-0.5/0", "max/1"]
    assert again[2]["expectation"] == again[1]["expectation"] == records[1]["expectation"]


def test_evaluations_of_one_study_at_once_keep_each_others_results(study, monkeypatch):
    evaluate_run, write = evaluation._evaluate, evaluation.write_json

    def interleaved(*arguments):
        monkeypatch.setattr(evaluation, "_evaluate", evaluate_run)
        run(study, poolings="stochastic-max:0.5")
        return evaluate_run(*arguments)

    def locked(path, content):
        with pytest.raises(Timeout):
            FileLock(study / ".evaluation.lock", is_singleton=False).acquire(timeout=0)
        write(path, content)

    monkeypatch.setattr(evaluation, "_evaluate", interleaved)
    monkeypatch.setattr(evaluation, "write_json", locked)
    run(study, poolings="max")
    assert [record["pooling"] for record in written(study)] == ["max"] * 2 + ["stochastic-max:0.5"] * 2


def test_what_cannot_be_evaluated_is_refused(folder, monkeypatch):
    def refused(message):
        with pytest.raises(LabError, match=message):
            run(folder)

    with monkeypatch.context() as read_only:
        error = PermissionError(errno.EACCES, "Permission denied", str(folder / ".evaluation.lock"))
        read_only.setattr(FileLock, "acquire", Mock(side_effect=error))
        refused(r"cannot write to .*/\.evaluation\.lock \(Permission denied\): make it writable")
    path, last = folder / "config.json", folder / "last.ckpt"
    config = json.loads(path.read_text())
    for changes, message in (
        ({"fingerprint": "f0"}, r"tiny is not what .*max/0 was trained on, or has changed since \(fingerprint f1"),
        ({"data": "photos"}, "trained on a folder called photos: say where it is with --data"),
        ({"seed": "0"}, r"max/0/config\.json: expected seed: int, got '0'; delete that folder, and train the run"),
        ({"pooling": 3}, r"max/0/config\.json: expected pooling: str, got 3; delete that folder, and train the run"),
        ({"pooling": "maxx"}, r"max/0/config\.json: pooling: expected one of max, .*; delete that folder, and train"),
        ({"recipe": {**config["recipe"], "width": "9"}}, r"max/0/config\.json: expected width: int, got '9'; delete"),
        ({"recipe": {**config["recipe"], "width": True}}, r"max/0/config\.json: expected width: int, got True; delete"),
        ({"recipe": {**config["recipe"], "augment": "blur"}}, r'config\.json: augment: .*, got "blur"; delete that'),
        ({"p_schedule": "warmpu:3"}, r'max/0/config\.json: p_schedule: .*, got "warmpu:3"; delete that folder, and'),
        ({"recipe": {**config["recipe"], "width": 9}}, r"last\.ckpt holds another network than cnn"),
    ):
        path.write_text(json.dumps({**config, **changes}))
        refused(message)
    last.write_bytes(last.read_bytes()[:500])
    refused(r"last\.ckpt is damaged \(.*\); delete that folder, and train the run again")
    last.unlink()
    refused(r"max/0 has no last\.ckpt, so there are no weights to evaluate: train that run")
    (folder / "result.json").unlink()
    refused("holds no finished run: expected a folder that empool train or compare made")


def test_the_command_prints_a_table_and_says_what_was_written(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = str(tiny_data.parquet_folder(tmp_path / "shapes"))
    small = ["--seeds", "1", "--epochs", "1", "--batch-size", "16", "--device", "cpu", "--recipe", "width=4"]
    assert cli.main(["compare", "--data", images, "--poolings", "max,ensemble:0.3", *small, "--out", "study"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "study", "--data", images, "--samples", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    first = [line[0] for line in lines if line[0] in {"max", "recalibrated", "ensemble:0.3", "Monte", "plain"}]
    assert first[:6] == ["max", "recalibrated", "ensemble:0.3", "recalibrated", "Monte", "plain"]
    assert lines[-1] == ["evaluation:", "study/evaluation.json"]
    assert cli.main(["evaluate", "study"]) == 1
    assert "folder called shapes: say where it is with --data" in capsys.readouterr().err
    assert cli.main(["evaluate", "study", "--data", images, "--label-column", "absent"]) == 1
    assert "no integer column absent" in capsys.readouterr().err
    assert cli.main(["evaluate", "study", "--samples", "0"]) == 2
