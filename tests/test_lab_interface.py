"""The lab from Python: studies, networks and data sets of a user's own, records of a user's own loop."""

from __future__ import annotations

import csv
import doctest
import functools
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from torch import nn

import empool
import tiny_data
from empool.lab import LabError, Study, compare, interface, table
from empool.lab.analyse import images
from empool.lab.execute.configure import Options, configure
from empool.lab.train import metrics, schedule
from empool.models import Recipe

ERRORS = {"max": [10.1, 10.3, 10.2], "ensemble:0.1": [9.1, 9.0, 9.3]}


class Images(torch.utils.data.Dataset):
    """Images and labels of `tiny_data`, as bytes or as floats."""

    classes = tiny_data.NAMES

    def __init__(self, count, seed, floats=False):
        pixels, self.labels = tiny_data.images(count, seed=seed)
        images = torch.from_numpy(pixels).movedim(-1, 1)
        self.images = images.double() / 255 if floats else images

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


def in_bytes():
    return Images(60, 0), Images(18, 1)


def in_floats(image=None, label=None):
    train, test = Images(60, 0, floats=True), Images(18, 1, floats=True)
    if image is not None:
        train.images = [*train.images[:7], image, *train.images[8:]]
    test.labels[4] = test.labels[4] if label is None else label
    return train, test


two_sizes, a_word = functools.partial(in_floats, torch.zeros(1, 8, 9)), functools.partial(in_floats, "word")
more_classes = functools.partial(in_floats, label=3)


def torn():
    train, test = in_floats()
    train.images = train.images[:7]
    return train, test


def net(pooling, num_classes):
    convolution, norm = nn.LazyConv2d(8, 3, padding=1), nn.LazyBatchNorm2d(affine=False)
    pool = empool.layer(pooling, 2, kernel_size=2)
    return nn.Sequential(convolution, norm, pool, nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


net.recipe = Recipe(epochs=6, batch_size=20, learning_rate=0.05, augment="none")


def too_few(pooling, inputs=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 2))


misfit = functools.partial(too_few, inputs=63)


def nothing(pooling=None):
    return None


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("data", ["in_bytes", "in_floats"])
def test_a_network_and_data_of_ones_own(data):
    poolings = {"max": {}, empool.EnsembleMax(0.3): {"learning_rate": 0.04, "epochs": 9}}
    net, seeds, workers = "test_lab_interface:net", numpy.arange(2), 0 if data == "in_floats" else None
    study = compare(f"test_lab_interface:{data}", net, poolings, seeds, out="study", workers=workers)
    spelled = "ensemble:0.3@learning_rate=0.04@epochs=9"
    assert [(record["pooling"], record["epochs"]) for record in study.records] == [("max", 6), (spelled, 9)] * 2
    assert all(record["test_error"] < 50 for record in study.records)
    assert [record["image_shape"] for record in study.records] == [[1, 8, 8]] * 4
    right = images.which_were_right(study.records[0])
    assert len(right) == study.records[0]["test_images"]
    assert 100 * (1 - right.mean()) == pytest.approx(study.records[0]["test_error"])
    assert study.table().index.tolist() == ["max", spelled]
    assert study.plot()._repr_svg_().startswith("<svg")
    assert (study.frame().shape[0], study.report().name) == (4, "report.html")
    assert repr(study) == "Study('study', 4 runs)"
    assert "<table" in Study("study", baseline=spelled)._repr_html_()


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ("digits", "test_lab_interface:absent", "test_lab_interface has no callable absent"),
        ("digits", "no_such_package.nets:make", "there is no module no_such_package here or on PYTHONPATH"),
        ("digits", "test_lab_interface:ERRORS", "test_lab_interface has no callable ERRORS"),
        ("digits", "test_lab_interface:nothing", "expected a torch.nn.Module, got NoneType"),
        ("digits", "test_lab_interface:too_few", r"expected logits \(2, 10\) of 2 images, got \(2, 2\)"),
        ("digits", "test_lab_interface:misfit", r"misfit, given images \(2, 1, 8, 8\), raised .*2x64 and 63x2"),
        ("digits", "lacks:it", "--model lacks:it raised ModuleNotFoundError: No module named 'no_such_package'$"),
        ("test_lab_interface:nothing", "cnn", "expected a training and a test Dataset, got NoneType"),
        ("test_lab_interface:two_sizes", "test_lab_interface:net", "train image 7 is 1x8x9, but train image 0 is"),
        ("test_lab_interface:a_word", "test_lab_interface:net", "train image 7 is str, but train image 0 is 1x8x8"),
        ("test_lab_interface:torn", "test_lab_interface:net", r"^--data .*: train image \d+ raised IndexError"),
        ("test_lab_interface:more_classes", "test_lab_interface:net", "test image 4 has label 3, expected 0 to 2"),
    ],
)
def test_what_is_wrong_with_ones_own_is_said(data, model, message):
    Path("lacks.py").write_text("import no_such_package")
    with pytest.raises(LabError, match=message):
        compare(data, model, ["max"], 1)


def test_held_out_images_are_measured_and_never_trained_on():
    tiny_data.parquet_folder(Path("shapes"), train=60)
    (whole,), all_of_it = configure(Options(data="shapes"), ["max"])
    (run,), data = configure(Options(data="shapes", validation=0.2, train_limit=30), ["max"])
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 12, 9)
    assert torch.bincount(data.validation.labels).tolist() == [4, 4, 4]
    rows = {tuple(image.flatten().tolist()) for image in data.validation.images}
    assert len(rows) == 12
    assert not rows & {tuple(image.flatten().tolist()) for image in data.train.images}
    assert rows <= {tuple(image.flatten().tolist()) for image in all_of_it.train.images}
    assert whole.fingerprint == run.fingerprint
    study = compare(Path("shapes"), poolings=["max"], seeds=1, epochs=2, batch_size=10, validation=0.2, out="study")
    (record,) = study.records
    assert 0 <= record["validation_error"] <= 100
    with open("study/max/0/metrics.csv", newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["validation_error"]) == record["validation_error"]


def test_records_of_ones_own_go_into_the_same_table():
    rows = [{"pooling": p, "seed": s, "test_error": e} for p, errors in ERRORS.items() for s, e in enumerate(errors)]
    made = table(rows)
    assert made.index.tolist() == ["max", "ensemble:0.1"]
    assert table([{**row, "seed": torch.tensor(row["seed"]), "converged": numpy.True_} for row in rows]).equals(made)
    assert made["Test error %"].tolist() == pytest.approx([10.2, 9.1333], abs=1e-3)
    assert table(pandas.DataFrame(rows), baseline="ensemble:0.1").index.tolist() == ["max", "ensemble:0.1"]
    for wrong, said in (
        ({"records": [{"pooling": "max", "seed": 0}]}, "table: .* expected a test error, got None for max with seed 0"),
        *(({"records": bad}, "table: expected a list of records, one a run, got a ") for bad in (ERRORS, None)),
        ({"records": [*rows, "max"]}, "table: run 7: expected an object, got 'max'"),
        ({"records": rows, "baseline": "mx"}, 'baseline: expected one of max, ensemble:0.1, got "mx"'),
    ):
        with pytest.raises(LabError, match=said):
            table(**wrong)


@pytest.mark.parametrize("module", [interface, metrics, schedule])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


def test_unknown_options_and_fields_of_the_recipe_are_refused():
    with pytest.raises(TypeError, match="epoch"):
        compare(epoch=3)
    for options, message in (
        ({"precision": "float16"}, "compare: expected precision: float32 or bfloat16, got 'float16'"),
        *(({"seeds": bad}, r"compare: expected seeds: list\[int\], got ") for bad in ("3", 2.0)),
        ({"jobs": 0}, "compare: expected jobs of at least 1, got 0"),
        ({"epochs": "3"}, r"compare: expected epochs: int \| None, got '3'"),
        ({"model": nn.Linear(2, 2)}, "compare: expected model: str, got Linear"),
        *(({none: []}, "a study needs at least one pooling and one seed") for none in ("poolings", "seeds")),
        ({"poolings": {"max": {"speed": 3}}}, "recipe: expected FIELD=VALUE with one of epochs, "),
        ({"poolings": ["max@milestones=0.5"]}, "recipe: milestones is of schedule=step"),
        ({"poolings": ["max", "average"], "baseline": "avg"}, 'baseline: expected one of max, average, got "avg"'),
    ):
        with pytest.raises(LabError, match=message):
            compare(**options)
    assert not list(Path().rglob("config.json"))  # Nothing was trained.
    (run,), _ = configure(Options(), ["max@schedule=step@milestones=(0.5, 0.75)"])
    assert run.training.milestones == (0.5, 0.75)
