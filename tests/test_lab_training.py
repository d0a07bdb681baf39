"""One run: reproducible, resumable bit for bit, paired by seed, honest about failure."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import platform
import signal
import subprocess
import sys
import weakref

import pytest
import torch

import tiny_data
from empool import models
from empool.lab import files, provenance
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.train import experiment as experiments
from empool.lab.train import loop
from empool.lab.train.batches import Batches, Normaliser
from empool.lab.train.loop import fit
from empool.lab.train.processes import Processes
from finished_runs import rows, weights

POOLINGS = ("max", "ensemble:0.3", "stochastic")


def interrupt_after(epochs, error=KeyboardInterrupt):
    def watch(done, row):
        if done > epochs and row is None:
            raise error

    return watch


@pytest.mark.parametrize("done", [9, 1], ids=["finished", "interrupted"])
def test_nothing_of_a_run_stays_in_memory(tmp_path, monkeypatch, done):
    made = []

    def make(*arguments):
        experiment = experiments.Experiment(*arguments)
        made.append(weakref.ref(experiment))
        return experiment

    monkeypatch.setattr(loop, "Experiment", make)
    with contextlib.suppress(KeyboardInterrupt):
        fit(tiny_data.config(), tiny_data.data_set(), tmp_path, interrupt_after(done))
    if done > 3:
        assert [experiment() for experiment in made] == [None]
    fit(tiny_data.config(seed=1), tiny_data.data_set(), tmp_path)
    assert [experiment() for experiment in made] == [None, None]


def test_the_record_says_what_began_a_run_and_what_went_on_with_it(tmp_path, monkeypatch):
    config = tiny_data.config(epochs=4)
    commits = iter("aabcd")
    monkeypatch.setattr(provenance, "commit", lambda: next(commits))
    for epochs in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(config, tiny_data.data_set(), tmp_path, interrupt_after(epochs))
    record = fit(config, tiny_data.data_set(), tmp_path)
    assert record["commit"] == "a"
    assert [(origin["epoch"], origin["commit"]) for origin in record["resumed"]] == [(3, "b"), (4, "c")]
    kept = {"device", "threads", "processes", "versions", "commit"}
    assert all(set(origin) == {"epoch", *kept} for origin in record["resumed"])
    (config.folder(tmp_path) / "result.json").unlink()
    assert fit(config, tiny_data.data_set(), tmp_path) == record  # Only writing it down was left.


def test_a_run_is_not_resumed_on_another_device_or_by_other_processes_but_may_begin_there(tmp_path):
    config = tiny_data.config()
    folder = config.folder(tmp_path)
    folder.mkdir(parents=True)
    files.write_json(folder / "config.json", dataclasses.replace(config, device="cuda").to_json())
    with pytest.raises(KeyboardInterrupt):
        fit(config, tiny_data.data_set(), tmp_path, interrupt_after(1))
    assert json.loads((folder / "config.json").read_text())["device"] == "cpu"
    for device, count, how in (("cuda", 1, "device = cpu, not cuda"), ("cpu", 2, "processes = 1, not 2")):
        with pytest.raises(LabError) as caught:
            loop._checkpoint(dataclasses.replace(config, device=device), folder, Processes(count=count))
        assert str(caught.value) == f"{folder} holds another run ({how}): go on with that, or choose another --out"
    recipe = dataclasses.replace(config.recipe, momentum=0.8)
    with pytest.raises(LabError, match=r"holds another run \(recipe.momentum = 0.9, not 0.8\): go on with that, or"):
        fit(dataclasses.replace(config, recipe=recipe), tiny_data.data_set(), tmp_path)


def test_every_pooling_starts_from_the_same_weights_and_sees_the_same_images(monkeypatch, tmp_path):
    seen = {}

    class Seen(loop._Run):
        def begin(self, found):
            super().begin(found)
            seen[self.config.pooling] = [p.detach().clone() for p in self.experiment.network.parameters()]

        def _step(self, epoch, batch, *images):
            seen[self.config.pooling] += [tensor.clone() for tensor in images]
            super()._step(epoch, batch, *images)

    monkeypatch.setattr(loop, "_Run", Seen)
    for pooling, seed in (("average", 6), *((pooling, 5) for pooling in POOLINGS)):
        fit(tiny_data.config(pooling, seed=seed), tiny_data.data_set(), tmp_path)
    assert len(seen["max"]) == 11 + 2 * 9  # parameters; images and labels of 3 batches in 3 epochs
    for pooling in POOLINGS[1:]:
        torch.testing.assert_close(seen[pooling], seen["max"], rtol=0, atol=0)
    assert (seen["average"][0] != seen["max"][0]).any()  # another seed


def test_batches_are_a_new_permutation_every_epoch():
    images = tiny_data.data_set(train=33).train
    config = tiny_data.config()
    config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, augment="none"))
    batches = Batches(images, config, Normaliser((0.0,), (1.0,), "cpu"))
    epochs = []
    for epoch in range(2):
        batches.epoch = epoch
        taken = list(batches)
        assert len(taken) == len(batches) == 2  # The last image alone makes no batch.
        epochs.append(torch.cat([pixels[:, 0] for pixels, _ in taken]))
    stored = images.images[..., 0].float()
    for epoch in epochs:
        matches = (epoch[:, None] == stored[None]).all(dim=(2, 3))  # (32, 33)
        assert (matches.sum(1) == 1).all()
        assert matches.sum(0).max() == 1
    assert (epochs[0] != epochs[1]).any()


def test_training_learns_in_silence_and_the_record_says_what_was_done(tmp_path, capfd):
    config = tiny_data.config("ensemble:0.1", seed=2, epochs=12)
    handler = signal.getsignal(signal.SIGTERM)
    record = fit(config, tiny_data.data_set(train=33), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is handler
    written = {path.name for path in config.folder(tmp_path).iterdir()}
    assert written == {"config.json", "metrics.csv", "last.ckpt", "result.json"}
    assert record["test_error"] < 20
    assert record == json.loads((config.folder(tmp_path) / "result.json").read_text())
    assert RunConfig.from_json(json.loads((config.folder(tmp_path) / "config.json").read_text())) == config
    expected = {"data": "tiny", "model": "cnn", "pooling": "ensemble:0.1", "p": 0.1, "seed": 2, "epochs": 12}
    expected |= {"batch_size": 16, "train_limit": None, "test_limit": None, "train_images": 33, "test_images": 18}
    expected |= {"augment": "crop:1,mirror", "precision": "float32", "p_schedule": "constant", "converged": True}
    expected |= {"classes": 3, "image_shape": [1, 8, 8], "chance_error": pytest.approx(200 / 3), "device": "cpu"}
    history = torch.load(config.folder(tmp_path) / "last.ckpt", weights_only=True)["history"]
    seen = record["images_per_second"] * sum(row["seconds"] for row in history)
    assert seen == pytest.approx(12 * 32)  # Two batches of 16: a single image is left out.
    expected |= {"threads": torch.get_num_threads(), "parameters": 25 * 8 + 2 * 25 * 64 + 6 * 8 + 3 * 8 + 3}
    assert {name: record[name] for name in expected} == expected
    assert set(record) - set(expected) == {
        *("test_error", "test_top5_error", "train_error", "test_loss", "train_loss", "test_nll", "test_ece"),
        *("calibration", "seconds", "images_per_second", "processes", "versions", "commit"),
        *("machine", "environment", "seeds", "resumed", "correct", "validation_error", "validation_loss"),
    }
    assert sum(record["calibration"]["count"]) == 18
    assert record["versions"]["torch"] == torch.__version__


def test_the_record_describes_the_machine_and_names_neither_it_nor_its_user(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny_data.config(seed=7)
    record = fit(config, tiny_data.data_set(), tmp_path)
    machine = record["machine"]
    assert set(machine) == {"processor", "cores", "memory", "gpus", "system"}
    assert (machine["cores"], machine["gpus"]) == (os.cpu_count(), [])
    assert machine["processor"]
    assert machine["memory"] is None or machine["memory"] > 2**28
    assert machine["system"].startswith(platform.system())
    assert record["environment"]["OMP_NUM_THREADS"] == "2"
    assert set(record["seeds"]) == {"weights", "order of epoch 1", "draws of epoch 1"}
    assert record["seeds"]["draws of epoch 1"] == derived_seed(7, "draws", 0)
    written = "".join((config.folder(tmp_path) / name).read_text() for name in ("result.json", "config.json"))
    for personal in (str(tmp_path), platform.node(), f'"{getpass.getuser()}"'):
        assert personal not in written


def test_deterministic_algorithms_repeat_a_run_and_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    config = tiny_data.config("ensemble:0.3", deterministic=True)
    states = []

    def watch(done, row):
        states.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    for name in "ab":
        record = fit(config, tiny_data.data_set(), tmp_path / name, watch)
    assert set(states) == {(True, False)}
    assert not torch.are_deterministic_algorithms_enabled()
    one, other = (weights(config.folder(tmp_path / name)) for name in "ab")
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert record["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(LabError, match="deterministic = True, not False"):
        fit(dataclasses.replace(config, deterministic=False), tiny_data.data_set(), tmp_path / "a")
    step = loop._Run._step

    def put(self, *arguments):
        torch.zeros(2).put_(torch.tensor([0]), torch.tensor([1.0]))
        step(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", put)
    with pytest.raises(LabError, match="put_ does not have a deterministic implementation: leave --deterministic out"):
        fit(config, tiny_data.data_set(), tmp_path / "named")


def test_metrics_have_a_row_an_epoch_and_the_last_one_counts(tmp_path, monkeypatch):
    config = tiny_data.config(epochs=7)
    record = fit(config, tiny_data.data_set(), tmp_path)
    lines = rows(config.folder(tmp_path))
    assert tuple(lines[0]) == loop.COLUMNS
    assert [line["epoch"] for line in lines] == [*"1234567"]
    for name in ("test_error", "test_loss", "test_ece"):
        assert float(lines[-1][name]) == record[name]
    assert record["test_nll"] == record["test_loss"]
    # The rate of the last of 3 batches of each epoch.
    rates = [config.recipe.rate(epoch + 2 / 3) for epoch in range(7)]
    assert [float(line["lr"]) for line in lines] == pytest.approx(rates)
    monkeypatch.setattr(loop, "TESTS", 3)  # Long runs are tested now and then and at the end.
    fit(config, tiny_data.data_set(), tmp_path / "long")
    tested = [int(line["epoch"]) for line in rows(config.folder(tmp_path / "long")) if line["test_error"]]
    assert tested == [3, 6, 7]


def test_the_train_error_is_that_of_the_images_as_they_are_in_the_testing_phase(tmp_path):
    config = tiny_data.config("max-dropout:0.9")  # Fits what it can hardly be trained on: most windows give 0.
    data = tiny_data.data_set()
    record = fit(config, data, tmp_path)
    trained = experiments.Experiment(config, data).eval()
    trained.load_state_dict(weights(config.folder(tmp_path))["weights"])
    logits = trained(Normaliser(data.mean, data.std, "cpu").plain(data.train.images))
    errors = (logits.argmax(1) != data.train.labels).double().mean().item()
    assert record["train_error"] == pytest.approx(100 * errors)
    assert float(rows(config.folder(tmp_path))[-1]["train_error"]) != pytest.approx(100 * errors)


def test_errors_are_counted_exactly(tmp_path):
    data = tiny_data.data_set(test=501)  # two test batches, the second of one image
    experiment = experiments.Experiment(tiny_data.config(), data)
    experiment.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    torch.nn.init.zeros_(experiment.network[1].weight)
    experiment.network[1].bias.data = torch.tensor([0.0, 1.0, 0.0])
    loss, error, ece, top5_error = experiment.tally(data.test).scores()
    assert error == pytest.approx(100 * 2 / 3)  # Always the second of three classes.
    exponentials = 2 + torch.e
    expected = (torch.log(torch.tensor(exponentials)) * 3 - 1) / 3
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert ece == pytest.approx(100 * (torch.e / exponentials - 1 / 3), rel=1e-6)
    assert top5_error is None  # There are three classes.


def test_a_network_that_looks_at_images_first_is_refused_if_they_are_not_in_memory(tmp_path):
    recipe = dataclasses.replace(models.network("airbench:8-8-8").recipe, epochs=1, batch_size=16)
    config = tiny_data.config(model="airbench:8-8-8", recipe=recipe, workers=0)
    with pytest.raises(LabError, match="airbench:8-8-8 looks at images before it is trained: they must be in mem"):
        fit(config, tiny_data.streamed(tiny_data.data_set()), tmp_path)


def test_bfloat16_and_the_other_memory_format_come_close(tmp_path):
    config = tiny_data.config(epochs=2)
    exact = fit(config, tiny_data.data_set(), tmp_path / "a")
    half = fit(dataclasses.replace(config, precision="bfloat16"), tiny_data.data_set(), tmp_path / "b")
    contiguous = fit(dataclasses.replace(config, channels_last=False), tiny_data.data_set(), tmp_path / "c")
    assert half["train_loss"] != exact["train_loss"]
    assert half["train_loss"] == pytest.approx(exact["train_loss"], rel=0.1)
    assert contiguous["train_loss"] == pytest.approx(exact["train_loss"], rel=1e-3)


# Two blocks of 48 MiB, taken and freed ten times: 24,576 pages each time, if none is kept.
# After a few rounds, all fits into what is kept.
FAULTS = """
import resource
import torch
from empool.lab.train import device

device.keep_freed()
for _ in range(8):
    [torch.ones(12 << 20) for _ in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(12 << 20) for _ in range(2)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_freed_is_kept_but_for_what_the_environment_says():
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = {**clean, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", FAULTS]
    kept, given_back = (int(subprocess.check_output(command, env=env, timeout=120)) for env in (clean, told))
    # Huge pages make fewer faults, but ten rounds of them either way.
    assert kept < given_back / 5
