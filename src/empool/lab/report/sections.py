"""The part of a study that may be compared: what it has to say, before it is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empool import models
from empool.lab.analyse import claims as judging
from empool.lab.analyse import findings, power, statistics
from empool.lab.analyse.records import Record, data_name, differences, distinct
from empool.lab.analyse.statistics import Summary
from empool.lab.errors import LabError
from empool.lab.report import gain, sheets
from empool.lab.report.table import Sheet
from empool.lab.study import paper
from empool.lab.study.run import planned


@dataclass(frozen=True)
class Section:
    """The runs of one network on one data set with one recipe."""

    anchor: str  # a short name, unique in the page
    title: str  # network and data set
    records: Sequence[Record]  # its runs
    summary: Summary  # what they support
    beside: paper.Table | None  # the paper's table of the same kind of study, if there is one
    answer: Sequence[str]  # sentences that say what was compared and what the seeds support
    differing: Sequence[str]  # in what the runs differ that should be the same, in words; empty where they do not
    missing: Sequence[str]  # runs that were planned and are not there, in words
    gains: Sequence[dict[str, Any]]  # points of the figure of gain against the generalisation gap
    errors: Sheet  # the table of test errors
    nll: Sheet | None  # the table of negative log-likelihoods, if there is something in it
    power: Sequence[str]  # what to know of the seeds that each row needs; empty if nothing was tested
    claims: Sheet | None  # the table of the paper's claims, where it has some of these poolings
    rules: Sheet | None  # the table of the inference rules, if the runs were evaluated by them

    def warnings(self) -> list[str]:
        """Say in what runs differ that should be the same, and which are missing."""
        missing = f"Missing runs: {'; '.join(self.missing)}."
        return [*self.differing, *([missing] if self.missing else [])]

    def protocol(self) -> list[tuple[str, str]]:
        """Say on what and how the runs were trained, name by name."""
        first = self.records[0]
        limit, trained, tested = first.get("train_limit"), first["train_images"], first["test_images"]
        images = f"all {trained:,}" if trained else "all"
        parameters = ", ".join(f"{number:,}" for number in distinct(self.records, "parameters"))
        return [
            ("Data", data_name(first)),
            ("Training images", f"{limit:,}, as many of each class" if limit and trained >= limit else images),
            ("Test images", f"{tested:,}" if tested else "all"),
            ("Network", first["model"]),
            ("Parameters", parameters or "not recorded"),
            ("Epochs", str(first.get("epochs", "not recorded"))),
            ("Batch size", str(first.get("batch_size", "not recorded"))),
            ("Augmentation", first["augment"]),
            ("Schedule of p", first["p_schedule"]),
        ]

    def assumptions(self) -> Sequence[str]:
        """Say what the network assumes where the paper is silent."""
        try:
            return models.network(self.records[0]["model"]).assumptions
        except ValueError:
            return ()  # a network that this version does not know, in an old study


def make(
    index: int, runs: Sequence[Record], study: Mapping[str, Any], baseline: str, evaluated: Sequence[Record]
) -> Section:
    """Put a section together of completed runs; `evaluated` is what `empool evaluate` found, of these and of others."""
    if precision := study.get("configuration", {}).get("precision"):
        runs = [{"precision": precision, **run} for run in runs]  # A record of before it was kept there.
    try:
        summary = statistics.summarise(runs, baseline)
    except ValueError as error:
        raise LabError(f"results.json: {error}") from None
    beside = judging.beside(runs)
    title = f"{runs[0]['model']} on {data_name(runs[0])}"
    plan = power.outlook(summary)
    needed = sheets.power_notes(summary, plan)
    caption = f"Test errors of {title}" + (f", and the paper's {beside.name} beside them" if beside else "")
    own = {(run["model"], run["pooling"], run["seed"]) for run in runs}
    return Section(
        anchor=f"study-{index + 1}" if index else "study",
        title=title,
        records=runs,
        summary=summary,
        beside=beside,
        answer=findings.answer(summary, runs),
        differing=[
            f"These runs differ in what computed them. {line[0].upper()}{line[1:]}." for line in differences(runs)
        ],
        missing=_missing(runs, study),
        gains=gain.points(summary, runs),
        errors=sheets.errors(caption, summary, beside, plan, [*findings.remarks(summary, beside), *needed]),
        nll=sheets.nlls(f"Negative log-likelihood and calibration of {title}", summary, findings.nll_remarks(summary)),
        power=needed,
        claims=sheets.claims(judging.judge(beside.claims, summary)) if beside else None,
        rules=sheets.rules([one for one in evaluated if (one.get("model"), one["pooling"], one["seed"]) in own]),
    )


def _missing(runs: Sequence[Record], study: Mapping[str, Any]) -> list[str]:
    """Name the runs that the study's commands plan and that are not there.

    An older study.json does not say which command added which: there it is all poolings with all seeds.
    """
    there = {(record["pooling"], record["seed"]) for record in runs}
    if commands := study.get("commands"):
        wanted = list(planned(commands))
    else:
        seeds = sorted({*study.get("seeds", []), *(seed for _, seed in there)})
        poolings = dict.fromkeys([*study.get("poolings", []), *(pooling for pooling, _ in sorted(there))])
        wanted = [(pooling, seed) for pooling in poolings for seed in seeds]
    return [f"{pooling}, seed {seed}" for pooling, seed in wanted if (pooling, seed) not in there]
