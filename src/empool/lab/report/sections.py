"""The part of a study that may be compared: what it has to say, before it is laid out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from empool import models
from empool.lab.analyse import statistics
from empool.lab.analyse.findings import Record, answer, data_name, images_tested, images_trained, remarks
from empool.lab.analyse.statistics import Row
from empool.lab.errors import LabError
from empool.lab.report import calibration, claims, curves, plots, rules, svg
from empool.lab.report.table import Sheet
from empool.lab.study import deck
from empool.lab.study.run import RunConfig, planned

# What runs must share to be compared; records that differ in one of these get a section of their own.
SETTINGS = ("data", "model", "epochs", "batch_size", "train_limit", "test_limit", "augment")


@dataclass(frozen=True)
class Section:
    """The runs of one network on one data set with one recipe.

    Attributes:
        anchor: a short name, unique in the page.
        records: its runs.
        rows: their summary.
        beside: the deck's table of the same data and network, if there is one.
        answer: sentences that say what was compared and what the seeds support.
        remarks: what to know when reading the table.
        missing: runs that were planned and are not there, in words.
        plots: the drawn plots.
        calibration: its table, if there is something in it.
        claims: the table of the deck's claims, where it has some of these poolings.
        rules: the table of the testing rules, if the runs were evaluated by them.
        assumptions: what the network assumes where the deck is silent.
    """

    anchor: str
    records: Sequence[Record]
    rows: Sequence[Row]
    beside: deck.Table | None
    answer: Sequence[str]
    remarks: Sequence[str]
    missing: Sequence[str]
    plots: Sequence[svg.Plot]
    calibration: Sheet | None
    claims: Sheet | None
    rules: Sheet | None
    assumptions: Sequence[str]

    @property
    def title(self) -> str:
        """Network and data set."""
        return f"{self.records[0]['model']} on {data_name(self.records[0])}"


def group(records: Sequence[Record]) -> list[list[Record]]:
    """Split records into lists of runs that may be compared, in the order of their first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        settings = [*(record.get(name) for name in SETTINGS), p_schedule(record)]
        groups.setdefault(json.dumps(settings), []).append(record)
    return list(groups.values())


def make(
    index: int,
    runs: Sequence[Record],
    study: Mapping[str, Any],
    learned: Sequence[curves.Curve] = (),
    evaluated: Sequence[Record] = (),
    *,
    drawn: bool = True,
) -> Section:
    """Put a section together.

    Args:
        index: its place in the report.
        runs: its runs.
        study: what study.json says.
        learned: their learning curves.
        evaluated: what `empool evaluate` found of them.
        drawn: whether its plots are wanted.

    Raises:
        LabError: if the records contradict each other or are damaged.
    """
    try:
        rows = statistics.summarise(runs)
    except ValueError as error:
        raise LabError(f"results.json: {error}") from None
    beside = deck.comparable(runs[0]["data"], runs[0]["model"])
    bins = calibration.pooled(runs)
    suffix = f"-{index + 1}" if index else ""
    return Section(
        anchor=f"study{suffix}",
        records=runs,
        rows=rows,
        beside=beside,
        answer=answer(rows, runs),
        remarks=remarks(rows, runs, beside),
        missing=_missing(runs, study),
        plots=[_named(plot, suffix) for plot in plots.plots(rows, learned, bins, beside)] if drawn else [],
        calibration=calibration.scores(rows, bins),
        claims=claims.sheet(claims.judge(beside.claims, runs)) if beside else None,
        rules=rules.sheet(evaluated),
        assumptions=_assumptions(runs[0]["model"]),
    )


def _named(plot: svg.Plot, suffix: str) -> svg.Plot:
    """Tell a plot apart from the same one of another section."""
    panels = tuple(
        replace(panel, drawing=replace(panel.drawing, name=panel.drawing.name + suffix)) for panel in plot.panels
    )
    return replace(plot, name=plot.name + suffix, panels=panels)


def _trained(record: Record) -> str:
    limit, images = record.get("train_limit"), images_trained(record)
    if limit is None or images is None:
        return "all"
    return f"all {images:,}" if images < limit else f"{images:,}, as many of each class"


def protocol(section: Section) -> list[tuple[str, str]]:
    """Say on what and how the runs were trained, name by name."""
    first = section.records[0]
    images = images_tested(first)
    return [
        ("Data", data_name(first)),
        ("Training images", _trained(first)),
        ("Test images", f"{images:,}" if images else "all"),
        ("Network", first["model"]),
        (
            "Parameters",
            ", ".join(f"{number:,}" for number in distinct(section.records, "parameters")) or "not recorded",
        ),
        ("Epochs", str(first.get("epochs", "not recorded"))),
        ("Batch size", str(first.get("batch_size", "not recorded"))),
        ("Augmentation", str(first.get("augment") or "none")),
        ("Schedule of p", p_schedule(first)),
    ]


def p_schedule(record: Record) -> str:
    """Give the schedule of p that a run had."""
    return str(record.get("p_schedule", RunConfig.p_schedule))


def distinct(records: Sequence[Record], field: str) -> list[Any]:
    """List the values of a field that is recorded, each once."""
    return list(dict.fromkeys(record[field] for record in records if record.get(field) is not None))


def _missing(runs: Sequence[Record], study: Mapping[str, Any]) -> list[str]:
    """Name the runs that the study's commands plan and that are not there.

    An older study.json does not say which command added which: there it is all poolings with all seeds.
    """
    there = {(record["pooling"], record["seed"]) for record in runs}
    if commands := study.get("commands"):
        return [f"{pooling}, seed {seed}" for pooling, seed in planned(commands) if (pooling, seed) not in there]
    poolings = list(dict.fromkeys([*study.get("poolings", []), *(pooling for pooling, _ in sorted(there))]))
    seeds = sorted({*study.get("seeds", []), *(seed for _, seed in there)})
    return [f"{pooling}, seed {seed}" for pooling in poolings for seed in seeds if (pooling, seed) not in there]


def _assumptions(model: str) -> tuple[str, ...]:
    try:
        return models.network(model).assumptions
    except ValueError:
        return ()  # a network that this version does not know, in an old study
