"""The paper's tables as commands: their rows, their protocols, and a table of tiny networks from start to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_data
from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.study import reproduce
from empool.lab.study.reproduce import Part, Protocol
from empool.lab.study.run import poolings

EMP = [f"ensemble:{p}" for p in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)]
DROPOUT = [f"max-dropout:{p}" for p in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)]


@pytest.mark.parametrize("name", ["full", "full-plain", "cpu"])
def test_table1_has_the_papers_17_rows_and_two_more(name: str) -> None:
    (part,) = reproduce.protocol("table1", name).parts
    assert part.model == "cnn"
    assert list(part.poolings) == [
        *("max", "average", *EMP, "stochastic", *DROPOUT),
        *("stochastic-max:0.5", "ordinal:0.6,0.3,0.1"),
    ]


def test_table2_in_full_has_the_networks_that_are_trained_in_hours() -> None:
    parts = {part.model: part.poolings for part in reproduce.protocol("table2", "full").parts}
    assert parts == {
        "dfn_mr:56": ("none", "max", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.5"),
        "resnet:110": ("none",),
        "preact_resnet:164": ("none",),
        "stochastic_depth:110": ("none",),
    }


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, known in reproduce.TABLES.items() for name in known]
)
def test_every_row_is_spelled_as_the_command_line_reads_it(table: str, name: str) -> None:
    for part in reproduce.protocol(table, name).parts:
        assert poolings(",".join(part.poolings), part.model) == list(part.poolings)


def test_short_protocol_of_table1() -> None:
    assert reproduce.protocol("table1", "cpu").changes == {
        "train_limit": 10_000,
        "epochs": 20,
        "augment": "none",
        "recipe": ["width=32"],
    }


def test_short_protocol_of_table2() -> None:
    short = reproduce.protocol("table2", "cpu")
    assert {part.model: part.poolings for part in short.parts} == {
        "dfn_mr:20": ("none", "max", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.5")
    }
    assert short.changes == {
        "train_limit": 5_000,
        "test_limit": 2_000,
        "epochs": 12,
        "augment": "none",
        "recipe": ["learning_rate=0.03", "schedule=cosine", "warmup=1"],
    }


def test_unknown_protocol() -> None:
    with pytest.raises(LabError, match="table2: expected protocol full, cpu, got full-plain"):
        reproduce.protocol("table2", "full-plain")


def test_a_table_of_two_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    images = tiny_data.parquet_folder(tmp_path / "cifar10")
    tiny = Protocol(
        "tiny networks",
        (Part("cnn", ("max", "ensemble:0.1")), Part("resnet:8", ("none",))),
        {"epochs": 1, "batch_size": 16},
    )
    monkeypatch.setitem(reproduce.TABLES, "table2", {"cpu": tiny})  # type: ignore[misc]
    command = ["reproduce", "table2", "--data", str(images), "--seeds", "2", "--device", "cpu"]
    assert cli.main(command) == 0
    out = [line.strip() for line in capsys.readouterr().out.splitlines()]
    expected = [
        "table2, protocol cpu: tiny networks",
        "cnn on cifar10",
        "report of cnn: runs/table2-cpu/cnn/report.html",
        "resnet:8 on cifar10",
        "report of resnet:8: runs/table2-cpu/resnet-8/report.html",
    ]
    assert [line for line in out if line in expected] == expected
    records = json.loads((tmp_path / "runs/table2-cpu/cnn/results.json").read_text())
    assert [(record["pooling"], record["seed"]) for record in records] == [
        ("max", 0),
        ("ensemble:0.1", 0),
        ("max", 1),
        ("ensemble:0.1", 1),
    ]
    # A folder that is called cifar10 and holds something else has no figures of the paper beside it.
    assert "Paper" not in (tmp_path / "runs/table2-cpu/cnn/table.md").read_text()
    study = json.loads((tmp_path / "runs/table2-cpu/resnet-8/study.json").read_text())
    assert study["command"] == " ".join(["empool", *command])
    assert cli.main(command) == 0  # Nothing is left to do.


def test_the_options_of_the_launcher_are_those_of_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table1", "--device", "cpu"]
    assert cli.main([*command, "--cpus-per-run", "2"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "empool: error: --cpus-per-run is for --launcher ray"
    pytest.importorskip("ray")
    assert cli.main([*command, "--launcher", "ray", "--address", "nonsense"]) == 1
    assert 'expected HOST:PORT, auto or local, got "nonsense"' in capsys.readouterr().err
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(command) == 1
    assert "leave out torchrun or srun" in capsys.readouterr().err
