"""One run on two processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import tiny_data
from empool.lab.errors import LabError
from empool.lab.train import processes
from empool.lab.train.batches import Augment, Batches, Normaliser
from empool.lab.train.processes import Processes
from finished_runs import weights

OPTIONS = ["--data", "shapes", "--epochs", "2", "--batch-size", "8", "--device", "cpu", "--recipe", "width=4"]
PLAIN = [*OPTIONS, "--recipe", "normalisation=none", "--recipe", "learning_rate=0.02"]


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


def train(folder, count, *arguments):
    """Run `empool train` on so many processes."""
    return run(folder, count, "-m", "empool.lab.cli", "train", *arguments)


def test_two_processes_train_as_one_does(tmp_path):
    tiny_data.parquet_folder(tmp_path / "shapes", train=36, test=9)
    done = {count: train(tmp_path, count, *PLAIN, "--pooling", "max", "--out", str(count)) for count in (1, 2)}
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
    names = {path.name for path in (tmp_path / "2/max/0").iterdir()}
    assert names == {path.name for path in (tmp_path / "1/max/0").iterdir()}


TERMINATED = """
import os
import signal
import sys
from empool.lab import cli
from empool.lab.train import loop, processes

following = loop._Run._step

def step(self, epoch, batch, *images):
    following(self, epoch, batch, *images)
    if (str(self.together.rank), epoch, batch) in MOMENTS:
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


def test_sigterm_ends_both_processes_after_the_same_step_and_the_run_goes_on(tmp_path):
    tiny_data.parquet_folder(tmp_path / "shapes", train=36, test=9)
    # To the second process alone, then to both.
    arguments = ["train", *OPTIONS, "--epochs", "3", "--pooling", "ensemble:0.3", "--out", "cut"]
    folder = tmp_path / "cut/ensemble-0.3/0"
    for number, moments in enumerate(([("1", 1, 2)], [("0", 1, 3), ("1", 1, 3)])):
        (tmp_path / "ended.py").write_text(TERMINATED.replace("MOMENTS", repr(moments)))
        ended = run(tmp_path, 2, "ended.py", *arguments, *(["--resume"] if number else []))
        assert [(tmp_path / f"code{rank}").read_text() for rank in range(2)] == ["143", "143"], ended.stderr
        assert ended.stderr.count("empool: ended by SIGTERM; finished runs stay in cut") == 1
        assert f"{' '.join(arguments)} --resume" in ended.stderr
        assert not (folder / "result.json").exists()
        assert not list(folder.glob(".*.tmp"))
        assert (folder / "metrics.csv").read_text().count("\n") == 2
        for rank in range(2):
            (tmp_path / f"code{rank}").unlink()
    assert train(tmp_path, 2, *arguments[1:], "--resume").returncode == 0
    assert train(tmp_path, 2, *arguments[1:-1], "whole").returncode == 0
    torch.testing.assert_close(weights(folder), weights(tmp_path / "whole/ensemble-0.3/0"), rtol=0, atol=0)
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
    if os.environ["RANK"] == FAILS and len(self.history) == 2:
        # As gloo may: neither a polite end of the group nor the interpreter's own would ever come.
        distributed.destroy_process_group = threading.Event().wait
        threading.Thread(target=threading.Event().wait).start()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt")

following = loop._Run.epoch
loop._Run.epoch = fail
runpy.run_module("empool.lab.cli", run_name="__main__")
"""


@pytest.mark.parametrize("fails", ["0", "1"])
def test_when_one_process_fails_the_other_says_no_more_than_that(tmp_path, fails):
    tiny_data.parquet_folder(tmp_path / "shapes", train=36, test=9)
    (tmp_path / "parted.py").write_text(PARTED.replace("FAILS", repr(fails)))
    ended = run(tmp_path, 2, "parted.py", "train", *OPTIONS, "--epochs", "3", "--pooling", "max", "--out", "cut")
    said = [line for line in ended.stderr.splitlines() if line.startswith("empool: error: ")]
    assert ended.returncode != 0
    assert sum("no space left" in line.lower() for line in said) == 1
    assert len(said) <= 1 + int(fails)  # What the other may say is that it was left alone.
    assert "gloo" not in ended.stderr
    arguments = ["train", *OPTIONS, "--epochs", "3", "--pooling", "max", "--out", "cut", "--resume"]
    assert run(tmp_path, 2, "-m", "empool.lab.cli", *arguments).returncode == 0


EACH = """
import sys
import torch
import tiny_data
import dataclasses
from pathlib import Path
from empool import models
from empool.lab.train import loop, processes, signals

with processes.joined() as together:
    model = "stochastic_depth:8"  # has batch normalisation, and blocks that a process drops for itself
    recipe = dataclasses.replace(models.network(model).recipe, epochs=2, batch_size=10, augment="none")
    config = tiny_data.config("ensemble:0.3", model=model, recipe=recipe)
    torch.manual_seed(5)
    experiment = loop.make_experiment(config, tiny_data.data_set())
    run = loop._Run(experiment, lambda epochs, row: None, signals.Deferred())
    run.begin(None)
    while not run.ended:
        run.epoch()
    last = run.history[-1]
    kept = {"weights": dict(experiment.network.named_parameters()), "seed": torch.initial_seed(),
            "scores": {name: value for name, value in last.items() if "second" not in name}}
    torch.save(kept, Path(sys.argv[1]) / f"{together.rank}.pt")
"""


def test_each_process_draws_for_itself_and_all_have_the_same_weights(tmp_path):
    (tmp_path / "each.py").write_text(EACH)
    done = run(tmp_path, 2, "each.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["seed"] != second["seed"]
    assert first["scores"] == second["scores"]
    torch.testing.assert_close(second["weights"], first["weights"], rtol=0, atol=0)


def test_images_are_divided_and_each_comes_once():
    data = tiny_data.data_set(train=36)
    normaliser = Normaliser(data.mean, data.std, torch.device("cpu"))
    whole = Batches(data.train, 8, Augment(), normaliser, seed=3)
    shares = [Batches(data.train, 8, Augment(), normaliser, 3, Processes(rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [len(whole)] * 2
    assert [whole.size(batch) for batch in range(5)] == [8, 8, 8, 8, 4]
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        for rank, (part, own) in enumerate(parts):
            torch.testing.assert_close(part, images[rank::2], rtol=0, atol=0)
            torch.testing.assert_close(own, labels[rank::2], rtol=0, atol=0)


def test_batches_too_small_to_divide_are_refused():
    data = tiny_data.data_set()
    normaliser = Normaliser(data.mean, data.std, torch.device("cpu"))
    with pytest.raises(LabError, match="4 processes need batches of at least 8 images: the batch size is 7, and there"):
        Batches(data.train, 7, Augment(), normaliser, 0, Processes(1, 4))


def test_who_started_a_process_is_read_from_the_environment(monkeypatch):
    for name in (*("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert processes.started() == Processes(0, 1, 0, 1)
    for name, value in {"PROCID": 5, "STEP_NUM_TASKS": 8, "LOCALID": 1, "STEP_NUM_NODES": 2}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert processes.started() == Processes(5, 8, 1, 4)
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert processes.started() == Processes(3, 4, 1, 2)
    assert processes.connected() == Processes()
