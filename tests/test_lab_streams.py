"""Networks of timm on images that are read when their turn comes: on folders and files of the hub's layout."""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
            plain = models.create(f"timm:{name}", num_classes=1000)
            net = models.create(f"timm:{name}", num_classes=1000, pooling=empool.EnsembleMax(0.1))
            tandems = models.create(
                f"timm:{name}", num_classes=1000, pooling=empool.EnsembleMax(0.1), strided_convs=True
            )
        assert sum(parameter.numel() for parameter in net.parameters()) == count
        assert isinstance(plain.maxpool, torch.nn.MaxPool2d)
        assert repr(net.maxpool) == repr(empool.EnsembleMaxPool2d(3, 2, 1, p=0.1))
        drawing = [type(module) for module in net.modules() if isinstance(module, empool.EnsembleMaxPool2d)]
        assert len(drawing) == 1
        assert sum(isinstance(module, empool.EnsembleMaxPool2d) for module in tandems.modules()) == 8
        assert list(plain.state_dict()) == list(net.state_dict()) == list(tandems.state_dict())


def test_a_network_with_nothing_to_replace_says_so():
    with torch.device("meta"):
        assert isinstance(
            models.create("timm:resnet18", num_classes=3, pooling=empool.Max()).maxpool, torch.nn.MaxPool2d
        )
        for pooling in (empool.Max(), empool.EnsembleMax(0.1)):
            with pytest.raises(
                ValueError, match=r"timm:convnext_atto has no max-pooling layer to replace; strided_convs"
            ):
                models.create("timm:convnext_atto", num_classes=3, pooling=pooling)
        with pytest.raises(ValueError, match="has no max-pooling layer to replace and no convolution with stride 2"):
            models.create("timm:vit_tiny_patch16_224", num_classes=3, pooling=empool.Max(), strided_convs=True)


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
    mean, std = (torch.tensor(values)[:, None, None] * 255 for values in lab_constants())
    colours = (images * std + mean).mean((2, 3))  # (48, 3)
    hues = torch.tensor(tiny_data.HUES) + 59.5
    assert (torch.cdist(colours, hues).argmin(1) == labels).all()
    test = list(streaming(data.test, config(data), training=False))
    assert [len(labels) for _, labels in test] == [16]
    assert test[0][1].tolist() == sorted(test[0][1].tolist())


def lab_constants():
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


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


def test_limits_choose_as_many_of_each_class(load, folder):
    data = load(str(folder), train_limit=20, test_limit=6)
    (_, labels), *_ = passes(data, 1, recipe=dataclasses.replace(RECIPE, batch_size=20))
    assert np.bincount(labels).tolist() == [5, 5, 5, 5]
    assert len(data.test) == 6
    assert data.fingerprint == load(str(folder)).fingerprint


def test_a_test_folder_may_lack_classes(load, tmp_path):
    folder = tiny_data.photographs(tmp_path / "some", test=4, test_folder="validation")
    (folder / "validation" / "n01" / "001.png").unlink()
    data = load(str(folder))
    (_, labels), *_ = streaming(data.test, config(data), training=False)
    assert labels.tolist() == [0, 2, 3]


def refused(capsys, *arguments):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("empool: error: ")
    return error.removeprefix("empool: error: ")


def test_compare_trains_each_pooling_and_reports(folder, tmp_path, capsys):
    arguments = ["compare", "--data", str(folder), "--poolings", "max,ensemble:0.1", "--seeds", "1", *SMALL]
    assert cli.main([*arguments, "--precision", "bfloat16", "--train-limit", "32", "--test-limit", "8"]) == 0
    assert "report: runs/photographs-timm-test_resnet/report.html" in capsys.readouterr().out
    records = json.loads((tmp_path / "runs" / "photographs-timm-test_resnet" / "results.json").read_text())
    assert [(record["pooling"], record["train_limit"], record["test_limit"]) for record in records] == [
        ("max", 32, 8),
        ("ensemble:0.1", 32, 8),
    ]
    report = (tmp_path / "runs" / "photographs-timm-test_resnet" / "report.html").read_text()
    assert "timm:test_resnet" in report


def test_a_trained_network_is_tested_by_every_rule(folder, tmp_path, capsys):
    arguments = ["train", "--data", str(folder), *SMALL, "--p-schedule", "anneal:0", "--out", "study"]
    assert cli.main(arguments) == 0
    assert cli.main(["evaluate", "study", "--data", str(folder), "--samples", "2", "--device", "cpu"]) == 0
    (record,) = json.loads((tmp_path / "study" / "evaluation.json").read_text())
    (trained,) = json.loads((tmp_path / "study" / "results.json").read_text())
    assert record["expectation"]["error"] == trained["test_error"]
    assert record["test_images"] == 16


def test_train_goes_on_if_asked_to(folder, capsys, monkeypatch):
    from empool.lab.train import loop

    arguments = ["train", "--data", str(folder), *SMALL, "--epochs", "2", "--out", "study", "--no-channels-last"]

    def interrupt(self, epoch):
        if epoch > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_set_p", interrupt)
        assert cli.main(arguments) == 130
    assert cli.main([*arguments, "--resume"]) == 0
    assert "after 2 epochs" in capsys.readouterr().out


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
    with pytest.raises(LabError, match=r"some/val: Found 0 images in subfolders of"):
        load(str(folder))
    (folder / "val").rename(folder / "other")
    with pytest.raises(LabError, match=r"some has no folder val: expected train/CLASS/IMAGE and val/CLASS/IMAGE"):
        load(str(folder))


@pytest.fixture
def _hub(tmp_path, monkeypatch):
    """Keep what datasets prepares; leave out the five seconds that it rests after a shuffled pass over parquet."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(Parquet, "SLEEP_ON_THREADS_SHUTDOWNS", False)


def hub_files(folder, damaged=None):
    """Write parquet files as the hub has them, two shards for training."""
    info = {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b", "c", "d"]}}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": info})},
    )
    source = tiny_data.photographs(folder / "source")
    folder = folder / "data"
    folder.mkdir()
    for split, name, shards in (("train", "train", 2), ("val", "validation", 1)):
        paths = sorted((source / split).rglob("*.png"), key=lambda path: path.name)
        rows = [
            {"bytes": b"no image" if n == damaged else path.read_bytes(), "path": None} for n, path in enumerate(paths)
        ]
        labels = [int(path.parent.name[1:]) for path in paths]
        for shard in range(shards):
            part = slice(shard * len(rows) // shards, (shard + 1) * len(rows) // shards)
            table = pa.table({"image": rows[part], "label": labels[part]}, schema=schema)
            pq.write_table(table, folder / f"{name}-{shard:05}-of-{shards:05}.parquet")
    names = "".join(f"            '{number}': {name}\n" for number, name in enumerate("abcd"))
    splits = "".join(
        f"  - name: {name}\n    num_examples: {count}\n    num_bytes: {count}\n"
        for name, count in (("train", 48), ("validation", 16))
    )
    features = (
        f"  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n        names:\n{names}"
    )
    (folder / "README.md").write_text(f"---\ndataset_info:\n  features:\n{features}  splits:\n{splits}---\n")
    return folder


@pytest.mark.usefixtures("_hub")
def test_fetched_data_sets(load, tmp_path):
    data = load(f"hfds/{hub_files(tmp_path)}", train_limit=32)
    assert data.classes == ("a", "b", "c", "d")
    assert (len(data.train), len(data.test)) == (32, 16)
    first, second = passes(data)
    assert np.bincount(first[1]).tolist() == [8, 8, 8, 8]
    assert (first[1] != second[1]).any()
    torch.testing.assert_close(passes(data), [first, second], rtol=0, atol=0)


@pytest.mark.usefixtures("_hub")
def test_a_damaged_image_of_a_fetched_data_set_is_named(load, tmp_path):
    source = f"hfds/{hub_files(tmp_path, damaged=5)}"
    data = load(source)
    with pytest.raises(LabError, match=rf"{source}, train: row 5: cannot decode the image \(unknown image format\)"):
        passes(data, 1)


@pytest.mark.usefixtures("_hub")
def test_a_data_set_of_the_hub_can_be_trained_on(tmp_path, capsys):
    source = f"hub:{hub_files(tmp_path)}"
    assert cli.main(["train", "--data", source, *SMALL, "--out", "study"]) == 0
    assert capsys.readouterr().out.startswith("ensemble:0.1, seed 0: test error ")
