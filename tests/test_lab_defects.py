"""Data that is easily read wrongly: it is read rightly, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tiny_data
from empool.lab import LabError, cli
from empool.lab.data import sets
from empool.lab.data.streams import load as load_for_timm


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parquet(folder, columns, features=None, splits=("train", "test"), images=None):
    """Write a file a split, with columns of integers beside the images, before and after them."""
    folder.mkdir()
    pixels, _ = tiny_data.images(12, 3)
    bytes_ = [{"bytes": tiny_data.png(p), "path": None} for p in pixels]
    names = list(columns)
    arrays = {name: pa.array(columns[name]) for name in names[:1]} | {"image": pa.array(bytes_)}
    arrays |= {name: pa.array(columns[name]) for name in names[1:]}
    table = pa.table(arrays)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for split in splits:
        pq.write_table(table, folder / f"{split}.parquet")
    return str(folder)


SMALL = ["--epochs", "1", "--train-limit", "100", "--device", "cpu", "--recipe", "width=4"]
LABELS = [0, 1, 2] * 4
ROWS = list(range(12))


def test_the_label_is_the_column_that_says_so(tmp_path):
    features = {
        "row": {"_type": "Value"},
        "image": {"_type": "Image"},
        "kind": {"_type": "ClassLabel", "names": [*"abc"]},
    }
    loaded = sets.load(parquet(tmp_path / "a", {"row": ROWS, "kind": LABELS}, features))
    assert (loaded.train.labels.tolist(), loaded.classes) == (LABELS, ("a", "b", "c"))
    loaded = sets.load(parquet(tmp_path / "b", {"id": ROWS, "label": LABELS}))
    assert loaded.train.labels.tolist() == LABELS


@pytest.mark.parametrize("name", ["row", "id", "sample_id"])
def test_a_column_that_may_be_no_label_is_asked_for(tmp_path, name):
    folder = parquet(tmp_path / "a", {name: ROWS, "kind": LABELS})
    with pytest.raises(LabError, match=f"clearly the label: name one with --label-column, of {name}, kind"):
        sets.load(folder)
    assert sets.load(folder, label_column="kind").train.labels.tolist() == LABELS
    with pytest.raises(LabError, match="no integer column absent"):
        sets.load(folder, label_column="absent")


def test_labels_with_gaps_are_as_many_classes_as_there_are(tmp_path):
    loaded = sets.load(parquet(tmp_path / "a", {"label": [label * 1000 for label in LABELS]}))
    assert loaded.classes == ("0", "1000", "2000")
    assert loaded.train.labels.tolist() == LABELS


def test_one_class_is_refused(tmp_path):
    with pytest.raises(LabError, match="all training images are of one class: there is nothing to tell apart"):
        sets.load(parquet(tmp_path / "a", {"label": [1] * 12}))


def test_validation_images_are_tested_on_where_there_are_no_others(tmp_path):
    loaded = sets.load(parquet(tmp_path / "a", {"label": LABELS}, splits=("train", "validation")))
    assert len(loaded.test) == 12


def test_a_folder_of_classes_may_call_its_test_images_either(tmp_path):
    folder = tiny_data.class_folders(tmp_path / "shapes")
    first = sets.load(str(folder))
    (folder / "test").rename(folder / "val")
    assert sets.load(str(folder)).fingerprint == first.fingerprint


def test_transparency_is_said_and_nested_folders_are_refused(tmp_path, caplog):
    folder = tiny_data.class_folders(tmp_path / "shapes")
    path = next((folder / "train").glob("*/*.png"))
    Image.open(path).convert("LA").save(path)
    sets.load(str(folder))
    assert f"1 images are transparent, which is left out; the first is {path}" in caplog.text
    (path.parent / "more").mkdir()
    (path.parent / "more" / "1.png").write_bytes(path.read_bytes())
    with pytest.raises(LabError, match="more is a folder in that of a class: expected images alone"):
        sets.load(str(folder))


def test_a_folder_of_something_else_is_not_called_empty(tmp_path):
    (tmp_path / "numbers.csv").write_text("1")
    with pytest.raises(LabError, match=r"holds neither parquet files nor class folders, but \.csv: expected train-"):
        sets.load(str(tmp_path))


@pytest.mark.usefixtures("timm")
def test_timm_takes_test_images_as_the_others_do(tmp_path):
    folder = tiny_data.photographs(tmp_path / "photographs", test_folder="test")
    assert len(load_for_timm(str(folder)).test) == 16


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
        small = [
            "--epochs",
            "1",
            "--train-limit",
            "100",
            "--device",
            "cpu",
            "--recipe",
            "width=4",
            "--out",
            str(number),
        ]
        run(capsys, "train", *small, "--recipe", "schedule=step", "--recipe", f"milestones={spelled}")
        recipe = json.loads(Path(str(number), "study.json").read_text())["configuration"]["recipe"]
        assert recipe["milestones"] == [0.5, 0.75]


def test_a_logger_is_told_of_runs_that_had_ended(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    small = [
        "compare",
        "--epochs",
        "1",
        "--train-limit",
        "100",
        "--device",
        "cpu",
        "--recipe",
        "width=4",
        "--seeds",
        "1",
    ]
    small += ["--poolings", "max", "--out", "study"]
    run(capsys, *small)
    for _ in range(2):
        run(capsys, *small, "--logger", "tensorboard")
        assert len([name for name in os.listdir("study/max/0") if name.startswith("events.")]) == 1
