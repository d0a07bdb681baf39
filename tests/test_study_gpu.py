"""The GPU study: the rule that chooses, the folders of its records, and networks trained side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from empool import models

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
study_gpu = pytest.importorskip("study_gpu")
study_records = pytest.importorskip("study_records")
replicas = pytest.importorskip("replicas")
on_device = pytest.importorskip("on_device")


def _study(folder: Path) -> object:
    arrays = on_device.synthetic(300, 50)
    return study_gpu.Study(arrays, folder, study_gpu.TINY, 1e9, 0, "cpu", "float32", None, None)


def test_the_lowest_mean_held_out_error_is_chosen_and_max_never(tmp_path: Path) -> None:
    study = _study(tmp_path)
    first, second = study_gpu.SETTINGS[:2]
    errors = {
        first: {"max": [1.0], "average": [3.0, 5.0], "ensemble:0.1": [4.0, 3.9]},
        second: {"max": [9.0], "average": [3.0, 4.0], "ensemble:0.1": [4.0, 3.0]},
    }
    study.choose(errors, {first: 11, second: 22})  # type: ignore[attr-defined]
    written = json.loads((tmp_path / "choice.json").read_text())
    assert written["50000-published"]["chosen"] == "ensemble:0.1"
    assert written["50000-none"]["chosen"] == "average"  # of equals the first
    assert written["50000-none"]["epochs"] == 22


def test_held_out_images_are_no_training_images(tmp_path: Path) -> None:
    index = _study(tmp_path).index  # type: ignore[attr-defined]
    assert not set(index["held out"]) & set(index["rest"])
    assert set(index["small"]) <= set(index["rest"])
    assert len(index["held out"]) + len(index["rest"]) == 300


def test_a_run_is_recorded_and_sorted_into_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(tmp_path)
    trainer = study.trainer("airbench:8-8-8", "ensemble:0.3", 300)  # type: ignore[attr-defined]
    study.run(trainer, "stage2", study_gpu.SETTINGS[3], "small", 1, seed=100)  # type: ignore[attr-defined]
    arguments = ["study_records.py", str(tmp_path / "records.jsonl"), "--out", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", arguments)
    study_records.main()
    (record,) = json.loads((tmp_path / "results/airbench/stage2/5000-none/results.json").read_text())
    assert (record["pooling"], record["p"], record["seed"], record["train_images"]) == ("ensemble:0.3", 0.3, 100, 200)
    assert set(record["rules"]) == {"single", "tta", "recalibrated", "recalibrated-tta"}
    assert record["test_error"] == record["rules"]["single"]["error"]
    assert study_records.finite({"loss": [float("nan"), 1.0]}) == {"loss": [None, 1.0]}


def test_tables_need_their_own_training_images_alone(tmp_path: Path) -> None:
    arrays = on_device.synthetic(300, 50)
    index = on_device.stratified(arrays["train_labels"], 100)
    images = {name: arrays[name] for name in ("train_labels", "test_images", "test_labels")}
    np.savez(tmp_path / "part.npz", train_images=arrays["train_images"][index], train_index=index, **images)
    part = on_device.cifar10(tmp_path, tmp_path / "part.npz")
    np.testing.assert_array_equal(part["train_images"][index], arrays["train_images"][index])
    scale = dataclasses.replace(
        study_gpu.TINY, table1=(100, 1, (0,)), table2=(40, 1, (0,)), rows1=("stochastic",), rows2=("none",)
    )
    study = study_gpu.Study(part, tmp_path, scale, 1e9, 0, "cpu", "float32", None, None)
    study.do(("table1", "table2"))
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    found = [(record["part"], record["pooling"]) for record in records]
    assert found == [("table1", "stochastic"), ("table2", "none")]
    assert not study.failed
    with pytest.raises(ValueError, match="a part of the training images"):
        study.images("all")


def test_networks_side_by_side_are_trained_as_alone() -> None:
    arrays = on_device.synthetic(50, 20)
    images, labels = torch.as_tensor(arrays["train_images"]), torch.as_tensor(arrays["train_labels"])
    recipe = dataclasses.replace(models.network("cnn").recipe, epochs=2, augment="none", width=4, batch_size=16)
    both, alone = (replicas.Replicas("cnn", "max", seeds, recipe, images, labels) for seeds in ((3, 4), (4,)))
    losses = [group.train()["loss"][-1] for group in (both, alone)]
    torch.testing.assert_close(losses[0], losses[1])
    for ours, theirs in zip(both.networks[1].parameters(), alone.networks[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert both.test(images, labels)[1]["single"]["correct"] == alone.test(images, labels)[0]["single"]["correct"]


def test_the_kernels_agree_with_themselves() -> None:
    said: list[str] = []
    assert study_gpu.kernels_agree("cpu", said.append), said
