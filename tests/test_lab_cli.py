"""The command line, end to end on tiny data."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import tiny_data
from empool import models
from empool.lab import cli
from empool.lab.train import processes


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    return tiny_data.parquet_folder(tmp_path / "shapes")


SMALL = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--recipe", "width=4"]
INTERRUPTED = "empool: interrupted; finished runs stay in study, and the same command goes on:"


def refused(capsys, *arguments, code=1) -> str:
    assert cli.main(arguments) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("empool: error: ")
    return error.removeprefix("empool: error: ")


LOADED = """
import sys
import empool_command
codes = []
for arguments in (["--help"], ["train", "--help"], ["train", "--epochs", "0"], [], ["show"]):
    assert "torch" not in sys.modules, arguments
    sys.argv = ["empool", *arguments]
    codes.append(empool_command.main())
assert codes == [0, 0, 2, 0, 0], codes
import empool
assert "torch" in sys.modules
assert empool.EnsembleMax(0.1).p == 0.1
assert empool.lab.cli
"""


def test_only_a_command_that_computes_loads_pytorch():
    subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)


def test_compare_trains_reports_and_does_not_do_it_twice(images, tmp_path, capsys):
    arguments = ["compare", "--data", str(images), "--poolings", "max,ensemble:0.2", "--seeds", "2", *SMALL]
    arguments += ["--train-limit", "21", "--recipe", "schedule=step", "--recipe", "milestones=0.5"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    directory = tmp_path / "runs" / "shapes-cnn"
    for name in ("report.html", "table.md", "table.tex", "results.json", "study.json"):
        assert (directory / name).stat().st_size > 0
    assert out.splitlines()[-1] == "report: runs/shapes-cnn/report.html"
    runs = ["max, seed 0", "ensemble:0.2, seed 0", "max, seed 1", "ensemble:0.2, seed 1"]
    said = ["4 runs", *(f"[{number}/4] {run}: test error" for number, run in enumerate(runs, start=1))]
    assert all(map(str.startswith, err.splitlines(), said))
    records = json.loads((directory / "results.json").read_text())
    about = [(record["data"], record["epochs"], record["augment"], record["train_limit"]) for record in records]
    assert about == [("shapes", 1, "crop:4,mirror", 21)] * 4
    study = json.loads((directory / "study.json").read_text())
    assert study["command"] == " ".join(["empool", *arguments])
    recipe = study["configuration"]["recipe"]
    assert (recipe["width"], recipe["schedule"], recipe["milestones"]) == (4, "step", [0.5])

    assert cli.main(arguments) == 0
    assert "4 runs, 4 done already" in capsys.readouterr().err
    assert json.loads((directory / "results.json").read_text()) == records
    (directory / "report.html").unlink()
    assert cli.main(["report", str(directory)]) == 0
    assert (directory / "report.html").exists()
    message = refused(capsys, *arguments, "--recipe", "momentum=0.5")
    assert message.startswith("runs/shapes-cnn holds a study with recipe.momentum = 0.9, not 0.5: choose another --out")


def test_train_goes_on_only_if_asked_to_and_compare_in_its_folder(images, capsys, monkeypatch):
    from empool.lab.train import loop

    common = ["--data", str(images), *SMALL, "--epochs", "3", "--out", "study"]
    train = ["train", "--pooling", "ensemble:.20", "--seed", "1", *common]
    assert refused(capsys, *train, "--resume").endswith("holds no run to resume: leave --resume out")

    def interrupt(self, epoch):
        if epoch > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_set_p", interrupt)
        assert cli.main(train) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{INTERRUPTED} empool train")
    assert "holds an unfinished run: give --resume to go on" in refused(capsys, *train)
    assert cli.main([*train, "--resume"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ensemble:0.2, seed 1: test error ")
    assert "after epoch 3; study" in said
    assert cli.main(["compare", "--poolings", "max,ensemble:0.2", "--seeds", "2", *common]) == 0
    assert "4 runs, 1 done already" in capsys.readouterr().err


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(images, tmp_path):
    arguments = ["compare", "--data", str(images), *SMALL, "--poolings", "max,average", "--epochs", "5"]
    arguments += ["--out", "study", "--seeds"]
    command = [sys.executable, "-m", "empool.lab.cli", *arguments, "40", "--jobs", "2"]
    # A shell's background job, as these tests may be, ignores SIGINT, and so would its child.
    obeys = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=obeys)
    with process.stderr as said:
        lines = []
        for line in said:
            lines.append(line)
            if line.startswith("[1/80]"):
                process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    # PyTorch may write of its own what was interrupted beneath an operator.
    assert [line for line in lines if line.startswith("empool:")][-1].startswith(f"{INTERRUPTED} empool")
    done = json.loads((tmp_path / "study" / "results.json").read_text())
    assert 1 <= len(done) < 80
    assert cli.main([*arguments, "1"]) == 0
    records = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [record for record in done if record not in records] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--poolings", "max,median"], "expected one of max, average, "),
        (["--poolings", "ensemble:1.5"], "expected p in [0, 1], got 1.5"),
        (["--poolings", "max,none"], "none keeps strided convolutions, and cnn has no such: name a pooling"),
        (["--model", "lenet"], "models: expected one of cnn, dfn_mr:DEPTH, "),
        (["--augment", "blur"], 'augment: expected none, crop:P, mirror or crop:P,mirror, got "blur"'),
        (["--recipe", "width=wide"], 'recipe: expected a value such as width=48, got "width=wide"'),
        (["--recipe", "learning_rate=-1"], "CNNRecipe: expected learning_rate of at least 0, got -1.0"),
        (["--epochs", "1", "--recipe", "epochs=2"], "recipe: epochs is given twice; leave one of them out"),
        (["--device", "cuda"], "no CUDA device: use --device cpu"),
        (["--logger", "comet"], '--logger: expected tensorboard, mlflow, wandb, got "comet"'),
        (["--gpus-per-run", "0"], "--gpus-per-run is for --launcher ray"),
        (["--launcher", "ray", "--jobs", "2"], "--jobs is for --launcher local"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_exist_is_named(images, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    defaults = ["--data", str(images), "--seeds", "1", "--out", "study"]
    assert message in refused(capsys, "compare", *defaults, *arguments)
    assert not Path("study").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--seeds", "0"], "--seeds"),
        (["compare", "--device", "tpu"], "'tpu' is not one of"),
        (["contrast"], "No such command 'contrast'"),
        (["report"], "Missing argument 'DIR'"),
        (["show", "--p", "nan"], "Invalid value for '--p'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2(arguments, message, capsys):
    assert message in refused(capsys, *arguments, code=2)


def test_help_fits_and_names_the_commands_and_every_network(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def shown(*arguments):
        assert cli.main(arguments) == 0
        return capsys.readouterr().out

    assert {"compare", "train", "evaluate", "report", "show"} <= set(shown().split())
    for command in ("compare", "train", "reproduce"):
        lines = shown(command, "--help").splitlines()
        assert len(lines) < 70
        assert max(map(len, lines)) <= 80
    text = " ".join(shown("compare", "--help").split())
    assert all(word in text for word in ("empool[ray]", "learning_rate"))
    assert shown("--version") == f"empool {version('empool')}\n"
    assert {name.partition(":")[0] for name in models.names()} <= set(re.findall(r"\w+", shown("train", "--help")))
    arguments, _, options = shown("reproduce", "--help").partition("Options:")
    assert "table <table1|table2>" in arguments
    assert "table1|table2" not in options


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["compare", "--jobs", "2"], "--jobs is for runs in one process each"),
        (["train", "--compile"], "--compile is for runs in one process each"),
        (["reproduce", "table1"], "empool reproduce trains one network in one process"),
    ],
)
def test_what_several_processes_do_not_do_together_is_refused(monkeypatch, capsys, arguments, what):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "joined", lambda: contextlib.nullcontext(processes.started()))
    assert refused(capsys, *arguments) == f"{what}: leave out torchrun or srun"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError("a file"), 1), (SystemExit(0), 0)])
def test_how_a_command_ends_is_its_exit_code(monkeypatch, error, code):
    def ends(*arguments, **options):
        raise error

    monkeypatch.setattr("empool.lab.analyse.evaluate.evaluate", ends)
    assert cli.main(["evaluate", "."]) == code


def test_what_ones_own_code_raises_is_shown_and_named(capfd):
    assert cli.main(["compare", "--model", "math:sqrt"]) == 1
    assert re.search(r"Traceback(.|\n)*empool: error: --model math:sqrt raised TypeError: ", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("typer", "lab", ["compare"]),
        ("timm", "imagenet", ["train", "--model", "timm:resnet50", "--data", "."]),
        ("ray", "ray", ["compare", "--launcher", "ray"]),
        ("tensorboard", "tensorboard", ["train", "--logger", "tensorboard"]),
    ],
)
def test_without_an_extra_the_remedy_is_said(monkeypatch, capsys, package, extra, arguments):
    for name in [name for name in sys.modules if name.startswith(("empool.lab.cli.commands", f"{package}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(capsys, *arguments)
    assert not Path("runs").exists()
    assert message == f"the lab needs {package}, which is not installed: pip install 'empool[{extra}]'"


def test_a_torchvision_of_another_build_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    message = refused(capsys, "train", "--model", "timm:resnet50", "--data", ".")
    assert "timm: operator torchvision::nms does not exist: install the torchvision for PyTorch 2." in message
