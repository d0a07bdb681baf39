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

PS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
DFN_MR = ("none", "max", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.5")
TABLE_1 = {
    "cnn": (
        *("max", "average", *(f"ensemble:{p}" for p in PS), "stochastic", *(f"max-dropout:{p}" for p in PS)),
        *("stochastic-max:0.5", "ordinal:0.6,0.3,0.1"),
    )
}
PLAIN = dict.fromkeys(("resnet:110", "preact_resnet:164", "stochastic_depth:110"), ("none",))
SHORT = ["learning_rate=0.03", "schedule=cosine", "warmup=1"]


@pytest.mark.parametrize(
    ("table", "name", "rows", "changes"),
    [
        ("table1", "full", TABLE_1, {}),
        ("table1", "full-plain", TABLE_1, {"augment": "none"}),
        ("table1", "cpu", TABLE_1, {"train_limit": 10_000, "epochs": 20, "augment": "none", "recipe": ["width=32"]}),
        ("table2", "full", {"dfn_mr:56": DFN_MR, **PLAIN}, {}),
        (
            *("table2", "cpu", {"dfn_mr:20": DFN_MR}),
            {"train_limit": 5_000, "test_limit": 2_000, "epochs": 12, "augment": "none", "recipe": SHORT},
        ),
    ],
)
def test_a_table_has_the_papers_rows_as_the_command_line_reads_them(table, name, rows, changes) -> None:
    protocol = reproduce.protocol(table, name)
    assert {part.model: part.poolings for part in protocol.parts} == rows
    assert protocol.changes == changes
    for model, spelled in rows.items():
        assert poolings(",".join(spelled), model) == list(spelled)


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
