"""Studies that are killed, cut off or hindered: nothing is lost but the epoch, and what comes out is the same."""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import tiny_data
from empool.lab import cli, files
from empool.lab.data import sources
from empool.lab.errors import LabError
from empool.lab.train import checkpoint, loop
from empool.lab.train.experiment import Experiment
from empool.lab.watch.progress import Progress, result
from finished_runs import NAMES, outcome, rows, same, weights
from held import at_step

# Children are forked from a process that has imported PyTorch and computed nothing, so they start at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["empool.lab.execute.supervise", "empool.lab.execute.configure", "empool.lab.cli.commands", "torch._dynamo"]
)

POOLINGS = ("max", "ensemble:0.3")
FOLDERS = ("max/0", "ensemble-0.3/0")


@pytest.fixture(autouse=True)
def _one_thread():
    """Compute as the children do."""
    with tiny_data.threads(1):
        yield


def config(**changes):
    changes = {"p_schedule": "anneal:0.1", "pooling": "ensemble:0.3", **changes}
    small = tiny_data.config(**changes)
    return dataclasses.replace(small, recipe=dataclasses.replace(small.recipe, dropout=0.2, width=4))


def start(directory, settings=None, poolings=POOLINGS, said=None):
    runs = tiny_data.plan(settings or config(), poolings, [0])
    return tiny_data.study(directory, runs, progress=Progress(said or io.StringIO()))


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def nth(number, act):
    """Give what acts when it is called for the number-th time."""
    calls = itertools.count(1)
    return lambda: act() if next(calls) == number else None


def at_file(when, name, number, act):
    """Act before or after a file gets its name for the number-th time."""
    replace, act_then = os.replace, nth(number, act)

    def replacing(source, target):
        if (when, Path(target).name) == ("before", name):
            act_then()
        replace(source, target)
        if (when, Path(target).name) == ("after", name):
            act_then()

    files.os.replace = replacing


def at_half(number, act):
    """Act when half of the number-th checkpoint is written."""
    save, act_then = torch.save, nth(number, act)

    def save_half(content, file):
        whole = io.BytesIO()
        save(content, whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        act_then()
        file.write(whole.getvalue()[half:])

    checkpoint.torch.save = save_half


def at_test(number, act):
    """Act in the number-th test of a network."""
    following, act_then = Experiment.tally, nth(number, act)

    def tally(self, split):
        act_then()
        return following(self, split)

    Experiment.tally = tally


def child(target, *arguments):
    """Run a function in a process of its own and give its exit code, negative for a signal."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
        pytest.fail(f"{target.__name__} was not done after 60 seconds")
    return code


def studied(directory, hook=None, settings=None):
    """Do the study, after setting up a hook: what `child` runs."""
    torch.set_num_threads(1)
    if hook is not None:
        hook()
    start(directory, settings)


def commanded(arguments, folder, hook=None):
    """Give a command in a folder, standard error going to a file there: what `child` runs."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    sys.stderr = (folder / "stderr").open("w")
    if hook is not None:
        hook()
    code = cli.main(arguments)
    sys.stderr.flush()
    sys.exit(code)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    assert child(studied, directory) == 0
    assert [len(rows(directory / folder)) for folder in FOLDERS] == [3, 3]
    return directory


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A study whose first run was killed in its third and last epoch."""
    directory = tmp_path_factory.mktemp("unfinished")
    assert child(studied, directory, functools.partial(at_step, 3, 2, die)) == -signal.SIGKILL
    assert {path.name for path in (directory / "max/0").iterdir()} == NAMES - {"result.json"} | {"previous.ckpt"}
    return directory


@pytest.fixture
def cut(unfinished, tmp_path):
    """A copy of the unfinished study."""
    return shutil.copytree(unfinished, tmp_path / "cut")


KILLS = {  # Each of them once, one after the other.
    "before the configuration is there": [functools.partial(at_file, "before", "config.json", 1, die)],
    "in the second epoch": [functools.partial(at_step, 2, 1, die)],
    "between metrics and checkpoint": [functools.partial(at_file, "after", "metrics.csv", 3, die)],
    "half of the second checkpoint written": [functools.partial(at_half, 2, die)],
    "checkpoint written but not named": [functools.partial(at_file, "before", "previous.ckpt", 1, die)],
    "between the names of two checkpoints": [functools.partial(at_file, "after", "previous.ckpt", 2, die)],
    "result written but not named": [functools.partial(at_file, "before", "result.json", 1, die)],
    "between a result and the study's results": [functools.partial(at_file, "after", "result.json", 1, die)],
    "in the second run": [functools.partial(at_file, "after", "last.ckpt", 4, die)],
    "after the study's last results": [functools.partial(at_file, "after", "results.json", 3, die)],
    "again and again": [
        functools.partial(at_step, 1, 2, die),
        functools.partial(at_half, 1, die),
        functools.partial(at_file, "after", "metrics.csv", 3, die),
        functools.partial(at_file, "after", "last.ckpt", 1, die),
    ],
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_study_that_is_killed_ends_as_if_it_had_not_been(whole, tmp_path, moment):
    for hook in KILLS[moment]:
        assert child(studied, tmp_path, hook) == -signal.SIGKILL
    start(tmp_path)
    assert same(tmp_path, whole, POOLINGS)


def test_what_other_programs_left_unfinished_stays(tmp_path):
    theirs = {".letter.odt.7.tmp", ".notes.json.tmp", ".last.ckpt.part.tmp", "last.ckpt.7.tmp"}
    for name in (*theirs, ".last.ckpt.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    files.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor):
        done.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def replaced(source, target):
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    for _ in range(2):
        checkpoint.write(tmp_path, {})
    assert done == [
        *("sync file", "last.ckpt", "sync folder"),
        *("sync file", "previous.ckpt", "last.ckpt", "sync folder"),
    ]


class Evil:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def malicious(path):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "history": Evil(path.with_name("executed"))}, path)


def flipped(path):
    with zipfile.ZipFile(path) as archive:
        weight = archive.read(max(archive.infolist(), key=lambda record: record.file_size))
    content = bytearray(path.read_bytes())
    content[content.index(weight) + len(weight) // 2] ^= 1  # Elsewhere it might be padding, which matters to no one.
    path.write_bytes(content)


def in_directory(path, offset, value):
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value  # of the archive's directory
    return content


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "one bit": flipped,
    "something else": lambda path: torch.save([1, 2, 3], path),
    "encrypted": lambda path: path.write_bytes(in_directory(path, 8, 1)),
    "an unknown method": lambda path: path.write_bytes(in_directory(path, 10, 99)),
    "deflated": lambda path: path.write_bytes(in_directory(path, 10, 8)),
    "malicious": malicious,
}


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(whole, cut):
    folder = cut / "max/0"
    good = (folder / "last.ckpt").read_bytes()
    for name, damage in DAMAGES.items():
        (folder / "last.ckpt").write_bytes(good)
        damage(folder / "last.ckpt")
        with pytest.raises(LabError, match=r"last\.ckpt is damaged \(.*\); delete it$"):
            checkpoint.read_checkpoint(folder / "last.ckpt", "delete it")
        assert checkpoint.newest(folder)["history"][-1]["epoch"] == 1, name
    for path in (cut / ".results.json.7.tmp", folder / ".last.ckpt.7.tmp"):
        path.write_bytes(b"half")  # What a killed process was writing is removed at the next start.
    said = io.StringIO()
    start(cut, said=said)
    (line,) = [line for line in said.getvalue().splitlines() if "damaged" in line]
    assert line.startswith(f"{folder}/last.ckpt is damaged (")
    assert line.endswith(f"); going on from {folder}/previous.ckpt, of epoch 1")
    assert same(cut, whole, POOLINGS)


def test_two_damaged_checkpoints_are_named_and_none_is_executed(cut):
    folder = cut / "max/0"
    for name in ("last.ckpt", "previous.ckpt"):
        malicious(folder / name)
    with pytest.raises(LabError) as caught:
        start(cut)
    said = str(caught.value)
    assert all(f"{folder}/{name}.ckpt is damaged (" in said for name in ("last", "previous"))
    assert said.endswith("; delete both, and the run starts again")
    assert not (folder / "executed").exists()
    torch.load(folder / "last.ckpt", weights_only=False)
    assert (folder / "executed").exists()  # It would have been.
    (folder / "previous.ckpt").unlink()
    with pytest.raises(LabError, match=r"last\.ckpt is damaged .*; delete it, and the run starts again$"):
        start(cut)


def refuse(monkeypatch, name, number, code):
    """Let the number-th writing of a file fail."""

    def act():
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", os.replace)  # Put back afterwards.
    at_file("before", name, number, act)


@pytest.mark.parametrize("path", ["study.json", *(f"max/0/{name}" for name in sorted(NAMES)), "results.json"])
def test_a_disk_that_fills_is_said_with_the_file_and_the_study_goes_on_later(whole, tmp_path, monkeypatch, path):
    with monkeypatch.context() as patched:
        refuse(patched, Path(path).name, 1, errno.ENOSPC)
        with pytest.raises(LabError, match=r"^no space left to write ") as caught:
            start(tmp_path)
    assert str(caught.value).startswith(f"no space left to write {tmp_path / path}: make room")
    start(tmp_path)
    assert same(tmp_path, whole, POOLINGS)


def limited(directory):
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(LabError, match=f"^cannot write to {directory}/max/0/last.ckpt .File too large.: make it"):
        start(directory)


def test_what_the_system_refuses_of_a_checkpoint_is_said_and_the_one_before_kept(whole, cut):
    before = {path.name: path.read_bytes() for path in (cut / "max/0").glob("*.ckpt")}
    assert child(limited, cut) == 0
    assert {path.name: path.read_bytes() for path in (cut / "max/0").glob("*.ckpt")} == before
    assert not list(cut.rglob("*.tmp"))
    start(cut)
    assert same(cut, whole, POOLINGS)


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    for code in (errno.EROFS, errno.EACCES):
        said = f"^cannot write to {tmp_path}/study.json .{os.strerror(code)}.: make it writable, or use another folder$"
        with pytest.MonkeyPatch.context() as patched:
            refuse(patched, "study.json", 1, code)
            with pytest.raises(LabError, match=said):
                start(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"^cannot write to .*file/study \(Not a directory\): .* another folder$"):
        start(tmp_path / "file" / "study")


def holding(directory, pipe):
    def wait():
        pipe.send("in the second epoch")
        pipe.recv()

    studied(directory, functools.partial(at_step, 2, 1, wait))


def test_a_folder_in_use_is_refused_and_free_once_the_process_is_dead(whole, tmp_path):
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=holding, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60)
    with pytest.raises(LabError) as caught:
        start(tmp_path)
    assert str(caught.value) == (f"another process is writing to {tmp_path}; wait for it, or choose another --out")
    process.kill()
    process.join()
    start(tmp_path)
    assert same(tmp_path, whole, POOLINGS)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


TERMINATIONS = {
    "in the first epoch": (functools.partial(at_step, 1, 2, terminate), []),
    "after the last step of the second epoch": (functools.partial(at_step, 2, 3, terminate), ["1", "2"]),
    "in the test at the end of the last epoch": (functools.partial(at_test, 3, terminate), ["1", "2", "3"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The arguments of a training, and the folder of that run, which nothing interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", "--data", str(tiny_data.parquet_folder(folder / "shapes")), "--epochs", "3"]
    arguments += ["--batch-size", "10", "--device", "cpu", "--recipe", "width=4", "--out", "study"]
    assert child(commanded, arguments, folder) == 0
    return arguments, folder / "study/ensemble-0.1/0"


@pytest.mark.parametrize("moment", TERMINATIONS)
def test_sigterm_ends_with_143_and_the_command_that_goes_on(trained, tmp_path, moment):
    arguments, whole = trained
    hook, epochs = TERMINATIONS[moment]
    assert child(commanded, arguments, tmp_path, hook) == 143
    folder = tmp_path / "study/ensemble-0.1/0"
    written = [row["epoch"] for row in rows(folder)] if (folder / "metrics.csv").exists() else []
    assert (written, checkpoint.begun(folder)) == (epochs, bool(epochs))
    command = " ".join(["empool", *arguments, *(["--resume"] if epochs else [])])
    said = (tmp_path / "stderr").read_text().splitlines()
    assert said[-1] == (
        f"empool: ended by SIGTERM; finished runs stay in study, and the same command goes on: {command}"
    )
    assert "Traceback" not in said
    assert child(commanded, command.split()[1:], tmp_path) == 0
    assert rows(folder) == rows(whole)
    torch.testing.assert_close(weights(folder), weights(whole), rtol=0, atol=0)


def terminate_decoding():
    sources.decode = lambda source, label_column: terminate()


def test_sigterm_before_the_training_ends_with_143_too(tmp_path):
    assert child(commanded, ["compare", "--data", "digits"], tmp_path, terminate_decoding) == 143
    assert (tmp_path / "stderr").read_text().splitlines()[-1] == (
        "empool: ended by SIGTERM; finished runs stay, and the same command goes on: empool compare --data digits"
    )


def not_a_number(self, images, through=None, following=Experiment.forward):
    logits = following(self, images, through)
    trained = self.network.training and self.batches.epoch == 1
    return logits * float("nan") if trained and self.config.pooling == "max" else logits


def diverging(directory, hook=None):
    Experiment.forward = not_a_number
    studied(directory, hook)


def test_a_run_that_diverges_is_recorded_and_not_trained_further_and_the_study_goes_on(whole, tmp_path):
    assert child(diverging, tmp_path / "whole") == 0
    text = (tmp_path / "whole/results.json").read_text()
    diverged, other = json.loads(text)
    assert "NaN" not in text
    assert (diverged["pooling"], diverged["converged"], other["converged"]) == ("max", False, True)
    assert diverged["train_loss"] is diverged["test_loss"] is diverged["test_nll"] is diverged["test_ece"] is None
    assert diverged["test_error"] == pytest.approx(100 * 2 / 3)  # What a network of NaN has: it always says class 0.
    assert result(diverged) == "did not converge"
    assert outcome(other) == outcome(json.loads((whole / "results.json").read_text())[1])
    for when in ("before", "after"):
        hook = functools.partial(at_file, when, "last.ckpt", 2, die)
        assert child(diverging, tmp_path / when, hook) == -signal.SIGKILL
        assert child(diverging, tmp_path / when) == 0
        assert same(tmp_path / when, tmp_path / "whole", POOLINGS)
        assert [row["train_loss"] for row in rows(tmp_path / when / "max/0")][1:] == ["nan"]


class Dying(torch.utils.data.Dataset):
    """Kills the process that loads it."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        die()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Of Python 3.12 and later.
def test_a_worker_that_dies_ends_the_study_with_a_message_and_it_goes_on_later(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:

        def dying(config, data):
            experiment = Experiment(config, data)
            experiment.batches = torch.utils.data.DataLoader(Dying(), num_workers=1)
            return experiment

        patched.setattr(loop, "Experiment", dying)
        with pytest.raises(LabError) as caught:
            start(tmp_path)
    assert str(caught.value).startswith(
        "a process that loads images died, often for want of memory (DataLoader worker (pid"
    )
    assert str(caught.value).endswith("): start again, and the run goes on from its last whole epoch")
    start(tmp_path)
    assert same(tmp_path, whole, POOLINGS)
