"""What a study has to say, before it is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empool.lab.analyse import claims as judging
from empool.lab.analyse import findings, power, statistics
from empool.lab.analyse.records import Record, data_name, differences, distinct
from empool.lab.analyse.statistics import Summary
from empool.lab.errors import LabError
from empool.lab.report import sheets
from empool.lab.report.table import Sheet
from empool.lab.study import paper
from empool.lab.study.run import planned


@dataclass(frozen=True)
class Section:
    """The runs of one network on one data set with one recipe."""

    title: str  # network and data set
    records: Sequence[Record]  # its runs
    summary: Summary  # what they support
    beside: paper.Table | None  # the paper's table of the same kind of study, if there is one
    answer: Sequence[str]  # sentences that say what was compared and what the seeds support
    warnings: Sequence[str]  # in what runs differ that should be the same, and which are missing, in words
    errors: Sheet  # the table of test errors
    nll: Sheet | None  # the table of negative log-likelihoods, if there is something in it
    power: Sequence[str]  # what to know of the seeds that each row needs; empty if nothing was tested
    claims: Sheet | None  # the table of the paper's claims, where it has some of these poolings
    rules: Sheet | None  # the table of the inference rules, if the runs were evaluated by them

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


def make(runs: Sequence[Record], study: Mapping[str, Any], baseline: str, evaluated: Sequence[Record]) -> Section:
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
    there = {(run["pooling"], run["seed"]) for run in runs}
    wanted = planned(study.get("commands") or [study]) if "poolings" in study else ()
    missing = "; ".join(f"{pooling}, seed {seed}" for pooling, seed in wanted if (pooling, seed) not in there)
    own = {(run["model"], run["pooling"], run["seed"]) for run in runs}
    return Section(
        title=title,
        records=runs,
        summary=summary,
        beside=beside,
        answer=findings.answer(summary, runs),
        warnings=[*filter(None, [differences(runs), f"Missing runs: {missing}." if missing else ""])],
        errors=sheets.errors(caption, summary, beside, plan, [*findings.remarks(summary, beside), *needed]),
        nll=sheets.nlls(f"Negative log-likelihood and calibration of {title}", summary, findings.nll_remarks(summary)),
        power=needed,
        claims=sheets.claims(judging.judge(beside.claims, summary)) if beside else None,
        rules=sheets.rules([one for one in evaluated if (one.get("model"), one["pooling"], one["seed"]) in own]),
    )
