"""The paper's tables as commands: their rows, their protocols, and a table of tiny networks from start to end."""

from __future__ import annotations

import json

import pytest

import tiny_data
from empool.lab import cli
from empool.lab.execute.options import Options
from empool.lab.study import paper
from empool.lab.study.paper import Part, Protocol
from empool.lab.study.run import poolings

PS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
TABLE_1 = ("max", "average", *(f"ensemble:{p}" for p in PS), "stochastic", *(f"max-dropout:{p}" for p in PS))
DFN_MR = ("none", "max", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.5")


@pytest.mark.parametrize(
    ("table", "names", "model", "rows"),
    [
        ("table1", ["full", "full-plain", "cpu"], "cnn", (*TABLE_1, "stochastic-max:0.5", "ordinal:0.6,0.3,0.1")),
        ("table2", ["full"], "dfn_mr:56", DFN_MR),
        ("table2", ["cpu"], "dfn_mr:20", DFN_MR),
    ],
)
def test_a_table_has_the_papers_rows_as_the_command_line_reads_them(capsys, table, names, model, rows):
    for name in names:
        protocol = paper.TABLES[table][name]
        assert (protocol.parts[0].model, protocol.parts[0].poolings) == (model, rows)
        assert Options(**protocol.changes).augment == (None if name == "full" else "none")
    assert poolings(",".join((*rows, "max")), model) == list(rows)  # Once each.
    assert cli.main(["reproduce", table, "--protocol", "short", "--device", "cpu"]) == 1
    assert f"{table}: expected protocol full, " in capsys.readouterr().err


def test_a_table_of_two_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = tiny_data.parquet_folder(tmp_path / "cifar10")
    parts = Part("cnn", ("max", "ensemble:0.1")), Part("resnet:8", ("none",))
    tiny = Protocol("tiny networks", parts, {"epochs": 1, "batch_size": 16})
    monkeypatch.setitem(paper.TABLES, "table2", {"cpu": tiny})
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
    done = [(record["pooling"], record["seed"]) for record in records]
    assert done == [("max", 0), ("ensemble:0.1", 0), ("max", 1), ("ensemble:0.1", 1)]
    # A folder that is called cifar10 and holds something else has no figures of the paper beside it.
    assert "Paper" not in (tmp_path / "runs/table2-cpu/cnn/table.md").read_text()
    study = json.loads((tmp_path / "runs/table2-cpu/resnet-8/study.json").read_text())
    assert study["command"] == " ".join(["empool", *command])
    assert cli.main(command) == 0  # Nothing is left to do.
