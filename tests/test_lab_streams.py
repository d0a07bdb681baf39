"""Networks of timm on images that are read when their turn comes, of folders and of a factory."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import sys
import types

import numpy as np
import pytest
import torch

import tiny_data
from empool import models
from empool.lab import cli
from empool.lab.data.load import load_data
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig
from empool.lab.train.batches import Stream
from empool.lab.train.loop import fit
from finished_runs import outcome, weights
from test_lab_cli import refused
from test_lab_training import interrupt_after

pytestmark = [
    pytest.mark.usefixtures("timm"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

# timm's network for tests: a residual network of 0.4 million parameters with a max-pooling layer.
RECIPE = dataclasses.replace(models.network("timm:resnet18").recipe, epochs=2, batch_size=16, image_size=32)
SMALL = ["--model", "timm:test_resnet", "--epochs", "1", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
SMALL += ["--recipe", "image_size=32"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tiny_data.photographs(tmp_path / "photographs")


def load(source, *limits):
    return load_data(models.network("timm:test_resnet"), str(source), *limits)


def config(data, **changes):
    fields = {"data": data.name, "fingerprint": data.fingerprint, "model": "timm:test_resnet", "seed": 0}
    fields |= {"pooling": "ensemble:0.3", "train_limit": None, "test_limit": None, "recipe": RECIPE, "workers": 0}
    return RunConfig(**{**fields, **changes})


def passes(data, count=2, augment="resized,mirror", **changes):
    """Take what `count` epochs of training give, images and labels."""
    recipe = dataclasses.replace(changes.pop("recipe", RECIPE), augment=augment)
    stream = Stream(data.train, config(data, recipe=recipe, **changes), training=True)
    taken = []
    for stream.epoch in range(count):
        epoch = list(stream)
        assert len(epoch) == len(stream)
        taken.append([torch.cat(part) for part in zip(*epoch, strict=True)])
    return taken


def test_images_are_resized_cropped_and_normalised(folder):
    data = load(folder)
    (images, labels), *_ = passes(data, 1)
    assert images.shape == (48, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.float32
    assert sorted(labels.tolist()) == sorted([0, 1, 2, 3] * 12)
    # The mean colour says which class an image is of, so images and labels belong together.
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = (torch.tensor(of)[:, None, None] * 255 for of in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    colours = (images * std + mean).mean((2, 3))  # (48, 3)
    hues = torch.tensor(tiny_data.HUES) + 59.5
    assert (torch.cdist(colours, hues).argmin(1) == labels).all()
    ((tested, labels),) = Stream(data.test, config(data), training=False)
    assert tested.shape == (16, 3, 32, 32)
    assert labels.tolist() == sorted(labels.tolist())


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(folder):
    data = load(folder)
    first = passes(data)
    before = random.getstate(), torch.get_rng_state()
    torch.testing.assert_close(passes(data), first, rtol=0, atol=0)
    assert random.getstate() == before[0]  # The draws of the network are not those of the images.
    assert torch.equal(torch.get_rng_state(), before[1])
    random.seed(5)
    torch.manual_seed(5)
    torch.testing.assert_close(passes(load(folder), workers=2), first, rtol=0, atol=0)
    assert (first[0][1] != first[1][1]).any()
    assert (passes(data, 1, seed=1)[0][1] != first[0][1]).any()
    for augment in ("resized", "resized,jitter:0.4", "resized,mirror,jitter:0.4"):
        assert (passes(data, 1, augment)[0][0] != first[0][0]).any()
    plain = passes(data, augment="none")
    order = [labels.argsort(stable=True) for _, labels in plain]
    assert all((one[0] != other[0]).any() for one, other in zip(plain, first, strict=True))
    assert sorted(plain[0][0][order[0]].flatten(1).sum(1).tolist()) == pytest.approx(
        sorted(plain[1][0][order[1]].flatten(1).sum(1).tolist()), rel=1e-5
    )
    view = Stream(data.train, config(data), training=True).view
    copied = pickle.loads(pickle.dumps(view))  # As workers that are started afresh are given it.
    assert len(copied) == len(view)
    torch.testing.assert_close(copied[7], view[7], rtol=0, atol=0)


def test_training_learns_and_ends_the_same_when_it_is_interrupted(folder, tmp_path):
    data = load(folder)
    run = config(data, recipe=dataclasses.replace(RECIPE, epochs=4, learning_rate=1.0, augment="resized"))
    record = fit(run, data, tmp_path / "whole")
    assert record["test_error"] < 40  # Of guesses, 75 are wrong.
    assert record["train_error"] < 40
    assert record["test_top5_error"] is None  # There are four classes.
    assert record["parameters"] == 373_076
    assert (record["model"], record["augment"]) == ("timm:test_resnet", "resized")
    written = json.loads((run.folder(tmp_path / "whole") / "config.json").read_text())
    assert RunConfig.from_json(written) == run

    with pytest.raises(KeyboardInterrupt):
        fit(run, data, tmp_path / "cut", interrupt_after(1))
    assert outcome(fit(run, data, tmp_path / "cut")) == outcome(record)
    cut, whole = (weights(run.folder(tmp_path / name)) for name in ("cut", "whole"))
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


def test_limits_choose_as_many_of_each_class_and_a_test_folder_may_lack_some(tmp_path):
    folder = tiny_data.photographs(tmp_path / "some", test=8, test_folder="validation")
    whole, data = load(folder), load(folder, 20, 6)
    (_, labels), *_ = passes(data, 1, recipe=dataclasses.replace(RECIPE, batch_size=20))
    assert np.bincount(labels).tolist() == [5, 5, 5, 5]
    assert (len(data.test), data.fingerprint) == (6, whole.fingerprint)
    (folder / "validation" / "n01").rename(tmp_path / "n01")
    data = load(folder)
    (_, labels), *_ = Stream(data.test, config(data), training=False)
    assert labels.tolist() == [0, 0, 2, 2, 3, 3]
    assert len(load(tiny_data.photographs(tmp_path / "test", test_folder="test")).test) == 16


def test_a_trained_network_is_tested_by_every_rule(folder, tmp_path):
    arguments = ["compare", "--data", str(folder), *SMALL, "--p-schedule", "anneal:0", "--out", "study", "--seeds", "1"]
    arguments += ["--poolings", "ensemble:0.1,none", "--recipe", "strided_convs=true"]  # None: without tandems.
    assert cli.main([*arguments, "--precision", "bfloat16", "--train-limit", "32"]) == 0
    assert "timm:test_resnet" in (tmp_path / "study" / "report.html").read_text()
    assert cli.main(["evaluate", "study", "--data", str(folder), "--samples", "2", "--device", "cpu"]) == 0
    records, trained = (
        json.loads((tmp_path / "study" / f"{name}.json").read_text()) for name in ("evaluation", "results")
    )
    assert [one["pooling"] for one in records] == [one["pooling"] for one in trained] == ["ensemble:0.1", "none"]
    assert [one["expectation"]["error"] for one in records] == [one["test_error"] for one in trained]
    assert (records[0]["test_images"], trained[0]["train_limit"]) == (16, 32)


@pytest.mark.parametrize(("workers", "split"), [(0, "train"), (2, "val")])
def test_a_damaged_image_is_named(folder, capsys, workers, split):
    path = folder / split / "n02" / "002.png"
    path.write_bytes(path.read_bytes()[:300])
    message = refused(capsys, "train", "--data", str(folder), *SMALL, "--workers", str(workers))
    assert message.startswith(f"{path}: cannot decode the image (")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits"], 'no folder "digits": networks of timm are trained on a folder (expected train/CLASS/'),
        (["--model", "timm:resnet19"], 'has no network "resnet19"'),
        (["--model", "timm:resnet18.a1_in1k"], "expected timm:resnet18, got timm:resnet18.a1_in1k, whose end names"),
        (["--model", "timm:"], "models: expected one of cnn, dfn_mr:DEPTH, "),
        (["--pooling", "none"], "none and max are the same timm:test_resnet unless --recipe strided_convs=true is"),
        (["--augment", "crop:4"], "ImageNetRecipe: expected augment none, or resized, "),
        (["--batch-size", "50"], "48 training images are no batch of 50: give a --batch-size"),
        (["--recipe", "test_crop=2"], "ImageNetRecipe: expected test_crop in (0, 1], got 2.0"),
        (["--model", "cnn", "--data", "digits", "--recipe", "width=4"], "--workers is for images that are loaded"),
    ],
)
def test_wrong_options_are_named(folder, capsys, arguments, message):
    given = SMALL[:-2] if "cnn" in arguments else SMALL
    assert message in refused(capsys, "train", "--data", str(folder), *given, *arguments)


def test_images_of_a_factory_are_as_those_of_a_folder(folder, monkeypatch):
    data = load(folder)
    train, test = (Stream(part, config(data), training=False).view.images for part in (data.train, data.test))
    monkeypatch.setitem(sys.modules, "factory", types.SimpleNamespace(data=lambda: (train, test)))
    with pytest.raises(LabError, match="expected the training Dataset to have `classes`, their names"):
        load("factory:data")
    train.classes = data.classes
    torch.testing.assert_close(passes(load("factory:data")), passes(data), rtol=0, atol=0)
    with pytest.raises(LabError, match="its images are loaded when their turn comes; choose among them beforehand"):
        load("factory:data", 32)
    train = [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)]
    with pytest.raises(LabError, match="or, for a network of timm, images of PIL"):
        load("factory:data")
