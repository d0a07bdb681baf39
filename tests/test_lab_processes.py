"""One run on two processes, as torchrun starts them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

import tiny_data
from empool.lab.errors import LabError
from empool.lab.train import checkpoint, processes
from empool.lab.train.batches import Batches, Normaliser, Stream
from empool.lab.train.processes import Processes
from finished_runs import weights

OPTIONS = ["--data", "shapes", "--epochs", "2", "--batch-size", "8", "--device", "cpu", "--recipe", "width=4"]


def run(folder, count, *arguments):
    """Run Python on so many processes."""
    command = [sys.executable, *arguments]
    if count > 1:
        command[1:1] = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
    environment = {
        **os.environ,
        "PYTHONPATH": tiny_data.python_path(),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


TERMINATED = """
import os
import signal
import sys
from empool.lab import cli
from empool.lab.train import loop, processes

following = loop._Run._step

def step(self, epoch, batch, *images):
    following(self, epoch, batch, *images)
    if (self.together.rank, epoch, batch) == (1, 1, 2):  # One of them alone is told.
        os.kill(os.getpid(), signal.SIGTERM)

loop._Run._step = step
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # When one process has ended, torchrun ends the other.


def main():
    code = cli.main(sys.argv[1:])
    with open(f"code{os.environ['RANK']}", "w") as file:
        file.write(str(code))
    return code

processes.until_left(main)
"""


def test_two_processes_train_as_one_does_whatever_ends_them(tmp_path):
    tiny_data.parquet_folder(tmp_path / "shapes", train=36, test=9)
    (tmp_path / "ended.py").write_text(TERMINATED)
    arguments = ["train", *OPTIONS, "--pooling", "max", "--recipe", "normalisation=none", "--recipe"]
    arguments += ["learning_rate=0.02", "--out"]
    done = {count: run(tmp_path, count, "-m", "empool.lab.cli", *arguments, str(count)) for count in (1, 2)}
    for process in done.values():
        assert process.returncode == 0, process.stderr
    assert done[2].stdout.count("max, seed 0: test error") == 1
    assert [line.partition(":")[0] for line in done[2].stderr.splitlines()[-2:]] == ["1 run", "[1/1] max, seed 0"]
    alone, together = (json.loads((tmp_path / f"{count}/max/0/result.json").read_text()) for count in (1, 2))
    assert (alone["processes"], together["processes"]) == (1, 2)
    for name in ("test_error", "train_error", "test_nll", "train_loss", "test_ece"):
        assert together[name] == pytest.approx(alone[name], rel=1e-4), name
    one, two = (weights(tmp_path / f"{count}/max/0")["weights"] for count in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)

    ended = run(tmp_path, 2, "ended.py", *arguments, "cut")
    assert [(tmp_path / f"code{rank}").read_text() for rank in range(2)] == ["143", "143"], ended.stderr
    assert ended.stderr.count("empool: ended by SIGTERM; finished runs stay in cut") == 1
    assert f"{' '.join(arguments)} cut --resume" in ended.stderr
    folder = tmp_path / "cut/max/0"
    assert {path.name for path in folder.iterdir()} == {"config.json", "last.ckpt", "metrics.csv"}
    assert (folder / "metrics.csv").read_text().count("\n") == 2
    assert run(tmp_path, 2, "-m", "empool.lab.cli", *arguments, "cut", "--resume").returncode == 0
    torch.testing.assert_close(weights(folder), weights(tmp_path / "2/max/0"), rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "last.ckpt", "metrics.csv", "result.json"]


PARTED = """
import errno
import os
import runpy
import threading
from torch import distributed
from empool.lab.train import loop

def fail(self):
    following(self)
    if os.environ["RANK"] == "1" and len(self.history) == 2:
        # As gloo may: neither a polite end of the group nor the interpreter's own would ever come.
        distributed.destroy_process_group = threading.Event().wait
        threading.Thread(target=threading.Event().wait).start()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt")

following = loop._Run.epoch
loop._Run.epoch = fail
runpy.run_module("empool.lab.cli", run_name="__main__")
"""


def test_when_one_process_fails_the_other_says_no_more_than_that(tmp_path):
    tiny_data.parquet_folder(tmp_path / "shapes", train=36, test=9)
    (tmp_path / "parted.py").write_text(PARTED)
    ended = run(tmp_path, 2, "parted.py", "train", *OPTIONS, "--epochs", "3", "--pooling", "max", "--out", "cut")
    said = [line for line in ended.stderr.splitlines() if line.startswith("empool: error: ")]
    assert ended.returncode != 0
    assert sum("no space left" in line.lower() for line in said) == 1
    assert len(said) <= 2  # What the other may say is that it was left alone.
    assert "gloo" not in ended.stderr
    assert checkpoint.begun(tmp_path / "cut/max/0")


EACH = """
import glob
import sys
import torch
import tiny_data
import dataclasses
from pathlib import Path
from empool import models
from empool.lab.train import loop, processes

with processes.joined() as together:
    model = "stochastic_depth:8"  # has batch normalisation, and blocks that a process drops for itself
    recipe = dataclasses.replace(models.network(model).recipe, epochs=2, batch_size=10, augment="none")
    config = tiny_data.config("ensemble:0.3", model=model, recipe=recipe, workers=0)
    for name, data in (("held", tiny_data.data_set()), ("streamed", tiny_data.streamed(tiny_data.data_set(test=17)))):
        torch.manual_seed(5)
        experiment = loop.Experiment(config, data)
        run = loop._Run(experiment, lambda epochs, row: None, [])
        run.begin(None)
        while not run.ended:
            run.epoch()
        last = run.history[-1]
        kept = {"weights": dict(experiment.network.named_parameters()), "seed": torch.initial_seed(),
                "scores": {name: value for name, value in last.items() if "second" not in name}}
        torch.save(kept, Path(sys.argv[1]) / f"{name}{together.rank}.pt")
# Left over while the wrapped network lives, threads of the group may abort the interpreter's end.
left = [Path(name).read_text() for name in glob.glob("/proc/self/task/*/comm")]
assert not [name for name in left if "gloo" in name], left
"""


def test_each_process_draws_for_itself_and_all_have_the_same_weights(tmp_path):
    (tmp_path / "each.py").write_text(EACH)
    done = run(tmp_path, 2, "each.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name, tested in (("held", 18), ("streamed", 17)):
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        assert first["seed"] != second["seed"]
        assert first["scores"] == second["scores"]
        assert sum(first["scores"]["reliability"]["count"]) == tested
        torch.testing.assert_close(second["weights"], first["weights"], rtol=0, atol=0)


def settings(size):
    config = tiny_data.config(seed=3, workers=0)
    return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, batch_size=size, augment="none"))


def held(images, size, together):
    return Batches(images, settings(size), Normaliser((110.0,), (60.0,), "cpu"), together)


def streamed(images, size, together):
    return Stream(tiny_data.as_they_come(images), settings(size), training=True, together=together)


@pytest.mark.parametrize(
    ("divided", "sizes"), [(held, [8, 8, 8, 8, 4]), (streamed, [8, 8, 8, 8])], ids=["held", "streamed"]
)
def test_images_are_divided_and_each_comes_once(divided, sizes):
    data = tiny_data.data_set(train=36)
    whole = divided(data.train, 8, Processes())
    shares = [divided(data.train, 8, Processes(rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [len(whole)] * 2
    assert [whole.size(batch) for batch in range(len(whole))] == sizes
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        for rank, (part, own) in enumerate(parts):
            torch.testing.assert_close(part, images[rank::2], rtol=0, atol=0)
            torch.testing.assert_close(own, labels[rank::2], rtol=0, atol=0)
    with pytest.raises(LabError, match="4 processes need batches of at least 8 images: the batch size is 7, and there"):
        divided(data.train, 7, Processes(1, 4))


def test_who_started_a_process_is_read_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert processes.started() == Processes(0, 1, 0)
    for name, value in {"PROCID": 5, "STEP_NUM_TASKS": 8, "LOCALID": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert processes.started() == Processes(5, 8, 1)
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert processes.started() == Processes(3, 4, 1)
    assert processes.connected() == Processes()
