"""The command line, end to end on tiny data."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
sys.argv = ["empool", *sys.argv[1:]]
code = empool_command.main()
print(code, "torch" in sys.modules, file=sys.stderr)
import empool
assert empool.EnsembleMax(0.1).p == 0.1
assert empool.lab.cli
"""


@pytest.mark.parametrize(
    ("arguments", "loads_torch"),
    [(["--help"], False), (["train", "--help"], False), (["train", "--epochs", "0"], False), (["show"], True)],
)
def test_only_a_command_that_computes_loads_pytorch(arguments, loads_torch):
    command = [sys.executable, "-c", LOADED, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    code = 2 if "0" in arguments else 0
    assert run.stderr.splitlines()[-1] == f"{code} {loads_torch}"


def test_compare_trains_reports_and_does_not_do_it_twice(images, tmp_path, capsys):
    arguments = ["compare", "--data", str(images), "--poolings", "max,ensemble:0.2,average", "--seeds", "2", *SMALL]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    directory = tmp_path / "runs" / "shapes-cnn"
    for name in ("report.html", "table.md", "table.tex", "results.json", "study.json"):
        assert (directory / name).stat().st_size > 0
    assert out.splitlines()[-1] == "report: runs/shapes-cnn/report.html"
    for pooling in ("max", "ensemble:0.2", "average"):
        assert f"{pooling}, seed 1: test error" in err
        assert pooling in out
    records = json.loads((directory / "results.json").read_text())
    assert len(records) == 6
    assert {(record["data"], record["epochs"], record["augment"]) for record in records} == {
        ("shapes", 1, "crop:4,mirror")
    }
    study = json.loads((directory / "study.json").read_text())
    assert study["command"] == " ".join(["empool", *arguments])
    assert study["configuration"]["recipe"]["width"] == 4

    assert cli.main(arguments) == 0
    assert "6 runs, 6 of them done already" in capsys.readouterr().err
    assert json.loads((directory / "results.json").read_text()) == records


def test_compare_limits_images(images):
    arguments = ["--data", str(images), "--poolings", "max", "--seeds", "1", "--train-limit", "21", "--test-limit", "6"]
    assert cli.main(["compare", *arguments, *SMALL, "--out", "limited"]) == 0
    (record,) = json.loads(Path("limited/results.json").read_text())
    assert (record["train_limit"], record["test_limit"]) == (21, 6)
    assert (record["test_error"] * 6 / 100) == pytest.approx(round(record["test_error"] * 6 / 100))


def test_train_then_compare_in_the_same_folder(images, capsys):
    common = ["--data", str(images), *SMALL, "--out", "study"]
    assert cli.main(["train", "--pooling", "ensemble:.20", "--seed", "1", *common]) == 0
    assert capsys.readouterr().out.startswith("ensemble:0.2, seed 1: test error ")
    assert cli.main(["compare", "--poolings", "max,ensemble:0.2", "--seeds", "2", *common]) == 0
    assert "4 runs, 1 of them done already" in capsys.readouterr().err


def test_train_takes_one_pooling(images, capsys):
    assert refused(capsys, "train", "--data", str(images), *SMALL, "--pooling", "max,average") == (
        "--pooling: expected one, got max, average; empool compare trains several"
    )


def test_milestones_are_taken_with_their_schedule(images):
    small = [*SMALL, "--recipe", "schedule=step", "--recipe", "milestones=0.5", "--out", "study"]
    assert cli.main(["train", "--data", str(images), *small]) == 0
    recipe = json.loads(Path("study/study.json").read_text())["configuration"]["recipe"]
    assert (recipe["schedule"], recipe["milestones"]) == ("step", [0.5])


def test_train_goes_on_only_if_asked_to(images, capsys, monkeypatch):
    from empool.lab.train import loop

    arguments = ["train", "--data", str(images), *SMALL, "--epochs", "3", "--out", "study"]
    assert refused(capsys, *arguments, "--resume").endswith("holds no run to resume: leave --resume out")

    def interrupt(self, epoch):
        if epoch > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_set_p", interrupt)
        assert cli.main(arguments) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "empool: interrupted; finished runs stay in study, and the same command goes on: empool train"
    )
    assert "holds an unfinished run: --resume goes on with it" in refused(capsys, *arguments)
    assert cli.main([*arguments, "--resume"]) == 0
    assert "after 3 epochs" in capsys.readouterr().out


def test_report_writes_the_report_once_more(images, tmp_path, capsys):
    assert cli.main(["compare", "--data", str(images), "--poolings", "max", "--seeds", "1", *SMALL, "--out", "s"]) == 0
    (tmp_path / "s" / "report.html").unlink()
    assert cli.main(["report", "s"]) == 0
    assert (tmp_path / "s" / "report.html").exists()
    assert refused(capsys, "report", "nowhere").startswith("nowhere/results.json is missing: expected the folder of")


def test_show_draws_to_the_terminal_or_a_file(tmp_path, capsys):
    assert cli.main(["show", "--p", "0.3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
    assert cli.main(["show", "phases.svg"]) == 0
    assert "<svg" in (tmp_path / "phases.svg").read_text()
    assert "Invalid value for '--p'" in refused(capsys, "show", "--p", "nan", code=2)
    assert refused(capsys, "show", "phases.txt").startswith("phases.txt: expected a file name that ends in .png")


def test_ctrl_c_stops_with_130_and_the_same_command_goes_on(images, tmp_path):
    command = [sys.executable, "-m", "empool.lab.cli", "compare", "--data", str(images), *SMALL]
    command += ["--poolings", "max,average", "--seeds", "40", "--epochs", "5", "--out", "study"]
    # A shell's background job, as these tests may be, ignores SIGINT, and so would its child.
    obeys = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=obeys)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[2/80]"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    process.stdout.close()
    process.stderr.close()
    assert lines[-1].startswith(
        "empool: interrupted; finished runs stay in study, and the same command goes on: empool"
    )
    assert "Traceback" not in "".join(lines)
    done = json.loads((tmp_path / "study" / "results.json").read_text())
    assert 2 <= len(done) < 80
    arguments = ["compare", "--data", str(images), *SMALL, "--poolings", "max,average", "--epochs", "5"]
    assert cli.main([*arguments, "--seeds", "1", "--out", "study"]) == 0
    assert json.loads((tmp_path / "study" / "results.json").read_text())[:2] == done[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--poolings", "max,median"], "expected one of max, average, "),
        (["--poolings", "ensemble:1.5"], "expected p in [0, 1], got 1.5"),
        (["--poolings", "ensemble:nan"], "expected p in [0, 1], got nan"),
        (["--poolings", "max,none"], "none keeps strided convolutions, and cnn has no such: name a pooling"),
        (["--poolings", ""], "expected one of max, average, "),
        (["--model", "lenet"], "models: expected one of cnn, dfn_mr:DEPTH, "),
        (["--data", "imagenet"], 'no data set "imagenet": expected one of digits, cifar10, '),
        (["--augment", "blur"], 'augment: expected none, crop:P, mirror or crop:P,mirror, got "blur"'),
        (["--recipe", "colour=red"], "recipe: expected FIELD=VALUE with one of epochs, "),
        (["--recipe", "width=wide"], 'recipe: expected width=48 or the like, got "width=wide"'),
        (
            ["--model", "dfn_mr:8", "--recipe", "pool_projections=no"],
            'recipe: expected pool_projections=True or the like, got "pool_projections=no"',
        ),
        (["--recipe", "learning_rate=-1"], "CNNRecipe: expected learning_rate of at least 0, got -1.0"),
        (["--epochs", "1", "--recipe", "epochs=2"], "recipe: epochs is given by --epochs too; leave one of them out"),
        (
            ["--recipe", "momentum=0.5", "--recipe", "momentum=0.5"],
            "recipe: momentum is given twice; leave one of them out",
        ),
        (
            ["--recipe", "decay=0.5"],
            'recipe: decay is of schedule=step, and the schedule is "cosine"; leave it out',
        ),
        (["--recipe", "width=0"], "CNN: expected width of at least 1, got 0"),
        (["--device", "cuda"], "no CUDA device: use --device cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_exist_is_named(images, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    defaults = ["--data", str(images), "--seeds", "1", "--out", "study"]
    assert message in refused(capsys, "compare", *defaults, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--seeds", "0"], "--seeds"),
        (["compare", "--train-limit", "0"], "--train-limit"),
        (["compare", "--device", "tpu"], "'tpu' is not one of"),
        (["compare", "--sedes", "3"], "No such option"),
        (["contrast"], "No such command 'contrast'"),
        (["report"], "Missing argument 'DIR'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2(arguments, message, capsys):
    assert message in refused(capsys, *arguments, code=2)


def test_bad_data_is_one_line(tmp_path, capsys):
    folder = tiny_data.class_folders(tmp_path / "shapes")
    path = folder / "train" / "dark" / "001.png"
    path.write_bytes(b"?")
    assert (
        refused(capsys, "compare", "--data", str(folder)) == f"{path}: cannot decode the image (unknown image format)"
    )


def test_folder_of_another_study_is_refused(images, capsys):
    common = ["compare", "--data", str(images), "--poolings", "max", "--seeds", "1", *SMALL, "--out", "study"]
    assert cli.main(common) == 0
    message = refused(capsys, *common, "--recipe", "momentum=0.5")
    assert (
        message
        == "study holds a study with recipe.momentum = 0.9, not 0.5: choose another --out, or delete that folder"
    )


def test_digits_are_the_default():
    arguments = ["compare", "--poolings", "max", "--seeds", "1", "--train-limit", "100", "--test-limit", "50", *SMALL]
    assert cli.main(arguments) == 0
    (record,) = json.loads(Path("runs/digits-cnn/results.json").read_text())
    assert (record["data"], record["model"], record["augment"]) == ("digits", "cnn", "crop:1")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"empool {version('empool')}\n"


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in ("compare", "train", "evaluate", "report", "show") if name not in out] == []


def test_help_names_every_network(capsys):
    assert cli.main(["train", "--help"]) == 0
    words = re.findall(r"\w+", capsys.readouterr().out)
    assert [name for name in models.names() if name.partition(":")[0] not in words] == []


def test_without_the_extra_the_remedy_is_said(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("empool.lab.cli.commands", "typer"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    message = refused(capsys, "compare")
    assert message == "the lab needs typer, which is not installed: pip install 'empool[lab]'"


def test_networks_of_timm_need_an_extra_of_their_own(monkeypatch, capsys):
    for name in ("timm", "timm.data"):
        monkeypatch.setitem(sys.modules, name, None)
    message = refused(capsys, "train", "--model", "timm:resnet50", "--data", ".")
    assert message == "the lab needs timm, which is not installed: pip install 'empool[imagenet]'"


def test_a_torchvision_for_another_torch_is_named(monkeypatch, capsys):
    def broken(*arguments, **options):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("empool.lab.execute.configure.configure", broken)
    message = refused(capsys, "train")
    assert message.startswith("torchvision was built for another PyTorch (operator torchvision::nms does not exist): ")


def test_ordinal_weights_keep_their_commas():
    from empool.lab.study.run import poolings

    assert poolings("max,ordinal:0.5,0.5,average,max", "cnn") == ["max", "ordinal:0.5,0.5", "average"]
    assert poolings("none,max", "dfn_mr:56") == ["none", "max"]
