"""Networks of timm on images that are read when their turn comes, of folders and of the hub."""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import random

import numpy as np
import pytest
import torch

import empool
import tiny_data
from empool import models
from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig

pytestmark = pytest.mark.usefixtures("timm")

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


@pytest.fixture
def load():
    from empool.lab.data.streams import load

    return load


def config(data, pooling="ensemble:0.3", seed=0, recipe=RECIPE, **changes):
    fields = {"data": data.name, "fingerprint": data.fingerprint, "model": "timm:test_resnet", "pooling": pooling}
    fields |= {"seed": seed, "train_limit": None, "test_limit": None, "recipe": recipe, "workers": 0}
    return RunConfig(**{**fields, **changes})


def streaming(*arguments, **options):
    from empool.lab.train.batches import Stream

    return Stream(*arguments, **options)


def passes(data, count=2, **changes):
    """Take what `count` epochs of training give, images and labels."""
    stream = streaming(data.train, config(data, **changes), training=True)
    taken = []
    for stream.epoch in range(count):
        batches = list(stream)
        assert len(batches) == len(stream)
        taken.append([torch.cat(part) for part in zip(*batches, strict=True)])
    return taken


def test_resnets_have_their_published_parameters_and_one_other_pooling():
    parameters = {"resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160, "resnet152": 60_192_808}
    for name, count in parameters.items():
        with torch.device("meta"):
            plain, net, tandems = (
                models.create(f"timm:{name}", num_classes=1000, **options)
                for options in (
                    {},
                    {"pooling": empool.EnsembleMax(0.1)},
                    {"pooling": empool.EnsembleMax(0.1), "strided_convs": True},
                )
            )
        assert sum(parameter.numel() for parameter in net.parameters()) == count
        assert isinstance(plain.maxpool, torch.nn.MaxPool2d)
        assert repr(net.maxpool) == repr(empool.EnsembleMaxPool2d(3, 2, 1, p=0.1))
        for network, drawing in ((net, 1), (tandems, 8)):
            assert sum(isinstance(module, empool.EnsembleMaxPool2d) for module in network.modules()) == drawing
        assert list(plain.state_dict()) == list(net.state_dict()) == list(tandems.state_dict())


def test_a_network_with_nothing_to_replace_says_so():
    with torch.device("meta"):
        for name, strided, message in (
            ("convnext_atto", False, r"timm:convnext_atto has no max-pooling layer to replace; strided_convs"),
            ("vit_tiny_patch16_224", True, "no max-pooling layer to replace and no convolution with stride 2"),
        ):
            with pytest.raises(ValueError, match=message):
                models.create(f"timm:{name}", num_classes=3, pooling=empool.Max(), strided_convs=strided)


def test_the_recipe_is_the_standard_one():
    recipe = models.network("timm:resnet50").recipe
    rates = [recipe.rate(epoch) for epoch in range(90)]
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)
    assert dataclasses.replace(recipe, batch_size=1024).rate(29.9) == pytest.approx(0.4)
    assert dataclasses.replace(recipe, batch_size=64, epochs=9).rate(3) == pytest.approx(0.0025)


def test_images_are_resized_cropped_and_normalised(load, folder):
    data = load(str(folder))
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
    test = list(streaming(data.test, config(data), training=False))
    assert [len(labels) for _, labels in test] == [16]
    assert test[0][1].tolist() == sorted(test[0][1].tolist())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_order_and_augmentation_depend_on_seed_and_epoch_alone(load, folder):
    data = load(str(folder))
    first = passes(data)
    before = random.getstate(), torch.get_rng_state()
    torch.testing.assert_close(passes(data), first, rtol=0, atol=0)
    assert random.getstate() == before[0]  # The draws of the network are not those of the images.
    assert torch.equal(torch.get_rng_state(), before[1])
    random.seed(5)
    torch.manual_seed(5)
    two = load(str(folder))
    torch.testing.assert_close(passes(two, workers=2), first, rtol=0, atol=0)
    assert (first[0][1] != first[1][1]).any()
    assert (passes(data, 1, seed=1)[0][1] != first[0][1]).any()
    plain = passes(data, recipe=dataclasses.replace(RECIPE, augment="none"))
    order = [labels.argsort(stable=True) for _, labels in plain]
    assert all((one[0] != other[0]).any() for one, other in zip(plain, first, strict=True))
    assert sorted(plain[0][0][order[0]].flatten(1).sum(1).tolist()) == pytest.approx(
        sorted(plain[1][0][order[1]].flatten(1).sum(1).tolist()), rel=1e-5
    )


def test_workers_that_are_started_afresh_can_be_given_the_images(load, folder):
    data = load(str(folder))
    view = streaming(data.train, config(data), training=True).view
    copied = pickle.loads(pickle.dumps(view))
    assert len(copied) == len(view)
    assert (copied[7][0] == view[7][0]).all()
    assert copied[7][1] == view[7][1]


@pytest.mark.parametrize("augment", ["resized", "resized,jitter:0.4", "resized,mirror,jitter:0.4"])
def test_other_augmentations(load, folder, augment):
    data = load(str(folder))
    usual = passes(data, 1)[0][0]
    other = passes(data, 1, recipe=dataclasses.replace(RECIPE, augment=augment))[0][0]
    assert (usual != other).any()


def test_training_learns_and_says_what_it_did(load, folder, tmp_path):
    from empool.lab.train.loop import COLUMNS, fit

    data = load(str(folder))
    run = config(data, recipe=dataclasses.replace(RECIPE, epochs=4, learning_rate=1.0, augment="resized"))
    record = fit(run, data, tmp_path / "study")
    assert record["test_error"] < 40  # Of guesses, 75 are wrong.
    assert record["train_error"] < 40
    assert record["test_top5_error"] is None  # There are four classes.
    assert record["parameters"] == 373_076
    assert (record["model"], record["augment"]) == ("timm:test_resnet", "resized")
    with (run.folder(tmp_path / "study") / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert float(lines[-1]["test_error"]) == record["test_error"]
    written = json.loads((run.folder(tmp_path / "study") / "config.json").read_text())
    assert RunConfig.from_json(written) == run


def test_an_interrupted_run_ends_as_if_it_had_not_been(load, folder, tmp_path):
    from empool.lab.train.loop import fit

    data = load(str(folder))
    run = config(data, recipe=dataclasses.replace(RECIPE, epochs=3))
    fit(run, data, tmp_path / "whole")

    def interrupt(done, row):
        if done > 1 and row is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run, data, tmp_path / "cut", interrupt)
    fit(run, data, tmp_path / "cut")
    checkpoints = [
        torch.load(run.folder(tmp_path / name) / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    ]
    whole, cut = ([found["state_dict"], found["optimizer_states"][0]["sgd"]["state"]] for found in checkpoints)
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


def test_limits_choose_as_many_of_each_class_and_a_test_folder_may_lack_some(load, tmp_path):
    folder = tiny_data.photographs(tmp_path / "some", test=8, test_folder="validation")
    whole = load(str(folder))
    data = load(str(folder), train_limit=20, test_limit=6)
    (_, labels), *_ = passes(data, 1, recipe=dataclasses.replace(RECIPE, batch_size=20))
    assert np.bincount(labels).tolist() == [5, 5, 5, 5]
    assert (len(data.test), data.fingerprint) == (6, whole.fingerprint)
    for number in (1, 5):
        (folder / "validation" / "n01" / f"{number:03}.png").unlink()
    data = load(str(folder))
    (_, labels), *_ = streaming(data.test, config(data), training=False)
    assert labels.tolist() == [0, 0, 2, 2, 3, 3]
    assert len(load(str(tiny_data.photographs(tmp_path / "test", test_folder="test"))).test) == 16


def refused(capsys, *arguments):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("empool: error: ")
    return error.removeprefix("empool: error: ")


def test_a_trained_network_is_tested_by_every_rule(folder, tmp_path, capsys):
    arguments = ["compare", "--data", str(folder), *SMALL, "--p-schedule", "anneal:0", "--out", "study", "--seeds", "1"]
    assert cli.main([*arguments, "--poolings", "ensemble:0.1", "--precision", "bfloat16", "--train-limit", "32"]) == 0
    assert "timm:test_resnet" in (tmp_path / "study" / "report.html").read_text()
    assert cli.main(["evaluate", "study", "--data", str(folder), "--samples", "2", "--device", "cpu"]) == 0
    (record,) = json.loads((tmp_path / "study" / "evaluation.json").read_text())
    (trained,) = json.loads((tmp_path / "study" / "results.json").read_text())
    assert record["expectation"]["error"] == trained["test_error"]
    assert (record["test_images"], trained["train_limit"]) == (16, 32)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
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
        (["--model", "timm:convnext_atto"], "models: timm:convnext_atto has no max-pooling layer to replace"),
        (
            ["--pooling", "none"],
            "none and max are the same timm:test_resnet unless --recipe strided_convs=true is given",
        ),
        (["--augment", "crop:4"], "ImageNetRecipe: expected augment none, or resized, "),
        (["--batch-size", "50"], "48 training images are no batch of 50: give a --batch-size"),
        (["--recipe", "test_crop=2"], "ImageNetRecipe: expected test_crop in (0, 1], got 2.0"),
        (["--data", "hfds/nobody/nothing"], "cannot get hfds/nobody/nothing ("),
        (["--model", "cnn", "--data", "digits", "--recipe", "width=4"], "--workers is for images that are loaded"),
    ],
)
def test_wrong_options_are_named(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    given = SMALL[:-2] if "cnn" in arguments else SMALL
    assert message in refused(capsys, "train", "--data", str(folder), *given, *arguments)


def test_none_is_the_network_as_published_beside_tandems(folder, capsys):
    arguments = ["train", "--data", str(folder), "--pooling", "none", *SMALL, "--recipe", "strided_convs=true"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith("none, seed 0: test error ")


def test_incomplete_folders_are_named(load, tmp_path):
    folder = tiny_data.photographs(tmp_path / "some", test=4)
    (folder / "val" / "other").mkdir()
    (folder / "val" / "n00" / "000.png").rename(folder / "val" / "other" / "000.png")
    with pytest.raises(LabError, match=r"some/val/other: no class of that name in .*some/train"):
        load(str(folder))
    (folder / "val" / "other" / "000.png").rename(folder / "val" / "000.png")
    with pytest.raises(LabError, match=r"some/val/000.png is in no class: expected train/CLASS/IMAGE"):
        load(str(folder))
    for path in (folder / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(LabError, match=r"some/val: no images; expected train/CLASS/IMAGE"):
        load(str(folder))
    (folder / "val").rename(folder / "other")
    with pytest.raises(LabError, match=r"some has no folder val: expected train/CLASS/IMAGE and val/CLASS/IMAGE"):
        load(str(folder))


def test_data_sets_of_the_hub_are_read_row_by_row(load, tmp_path, monkeypatch, capsys):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    names = ("a", "b", "c", "d")
    for damaged in (None, 5):
        source = tmp_path / f"damaged-{damaged}"
        source.mkdir()
        for split, where in (("train", "train"), ("validation", "val")):
            paths = sorted((tiny_data.photographs(tmp_path / "files") / where).rglob("*.png"), key=lambda p: p.name)
            content = [b"no image" if n == damaged else path.read_bytes() for n, path in enumerate(paths)]
            labels = [int(path.parent.name[1:]) for path in paths]
            tiny_data.write_parquet(source / f"{split}.parquet", content, labels, names, image="image")
        data = load(f"hfds/{source}", train_limit=32)
        assert (data.classes, len(data.train), len(data.test)) == (names, 32, 16)
        if damaged is None:
            first, second = passes(data)
            assert np.bincount(first[1]).tolist() == [8, 8, 8, 8]
            assert (first[1] != second[1]).any()
            torch.testing.assert_close(passes(data), [first, second], rtol=0, atol=0)
            assert cli.main(["train", "--data", f"hfds/{source}", *SMALL, "--out", "study"]) == 0
            assert capsys.readouterr().out.startswith("ensemble:0.1, seed 0: test error ")
            continue
        with pytest.raises(LabError, match=rf"{source}, train: row 5: cannot decode the image"):
            passes(load(f"hfds/{source}"), 1)
