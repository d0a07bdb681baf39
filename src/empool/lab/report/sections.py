"""What a study has to say, before it is laid out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from empool.lab.analyse import claims as judging
from empool.lab.analyse import findings, power, records, statistics
from empool.lab.analyse.records import Record, data_name
from empool.lab.errors import LabError
from empool.lab.report import sheets
from empool.lab.study.run import check_baseline, planned, read_study


class Origin(NamedTuple):
    """How a study was made, where its study.json is there to say."""

    command: str = ""  # what was typed, a line a command
    planned: Collection[tuple[str, int]] = ()  # its runs, by pooling and seed
    configuration: Mapping[str, Any] = {}  # by name, such as "recipe.width"


class Section:
    """The runs of one network on one data set with one recipe, of records that were checked.

    `source` is what holds them, for messages; `evaluated` is what `empool evaluate` found, of these runs and of others.
    """

    def __init__(
        self, found: Iterable[Record], source: str, baseline: str, origin: Origin, evaluated: Sequence[Record]
    ) -> None:
        self.origin = origin
        runs = self.records = records.of_one_setting([records.completed(record) for record in found], source)
        try:
            summary = self.summary = statistics.summarise(runs, baseline)
        except ValueError as error:
            raise LabError(f"{source}: {error}") from None
        check_baseline(baseline, [row.pooling for row in summary.rows])
        beside = self.beside = judging.beside(runs)
        self.title = f"{runs[0]['model']} on {data_name(runs[0])}"
        self.answer = findings.answer(summary, runs)  # what was compared and what the seeds support, in sentences
        own = {(run["model"], run["pooling"], run["seed"]) for run in runs}
        there = {run[1:] for run in own}
        missing = "; ".join(f"{run[0]}, seed {run[1]}" for run in origin.planned if run not in there)
        self.warnings = [*filter(None, [records.differences(runs), missing and f"Missing runs: {missing}."])]
        plan = power.outlook(summary)
        self.power = sheets.power_notes(summary, plan)  # empty if nothing was tested
        caption = f"Test errors of {self.title}" + (f", and the paper's {beside.name} beside them" if beside else "")
        remarks = [*findings.remarks(summary, beside), *self.power]
        self.errors = sheets.errors(caption, summary, beside, plan, remarks)
        caption = f"Negative log-likelihood and calibration of {self.title}"
        self.nll = sheets.nlls(caption, summary, findings.nll_remarks(summary))
        self.claims = sheets.claims(judging.judge(beside.claims, summary)) if beside else None
        self.rules = sheets.rules([one for one in evaluated if (one.get("model"), one["pooling"], one["seed"]) in own])

    def protocol(self) -> list[tuple[str, str]]:
        """Say on what and how the runs were trained, name by name."""
        first = self.records[0]
        limit, trained, tested = first.get("train_limit"), first["train_images"], first["test_images"]
        images = f"all {trained:,}" if trained else "all"
        counted = dict.fromkeys(filter(None, (run.get("parameters") for run in self.records)))
        return [
            ("Data", data_name(first)),
            ("Training images", f"{limit:,}, the same number of each class" if limit and trained >= limit else images),
            ("Test images", f"{tested:,}" if tested else "all"),
            ("Network", first["model"]),
            ("Parameters", ", ".join(f"{number:,}" for number in counted) or "not recorded"),
            ("Epochs", str(first.get("epochs", "not recorded"))),
            ("Batch size", str(first.get("batch_size", "not recorded"))),
            ("Augmentation", first["augment"]),
            ("Schedule of p", first["p_schedule"]),
        ]


def read(directory: Path, baseline: str) -> Section:
    """Read a study's folder, and put together what it has to say; LabError names a damaged file."""
    found, evaluated = records.read_records(directory), records.read_evaluation(directory)
    return Section(found, str(directory / "results.json"), baseline, _origin(directory), evaluated)


def _origin(directory: Path) -> Origin:
    """Read study.json, without which nothing is known of how a study was made."""
    study = read_study(directory)
    if study is None:
        return Origin()
    configuration = pd.json_normalize(study["configuration"]).iloc[0].to_dict()
    configuration |= {name: study[name] for name in ("poolings", "seeds")}
    return Origin("\n".join(one["command"] for one in study["commands"]), planned(study["commands"]), configuration)
