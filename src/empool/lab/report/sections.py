"""The part of a study that may be compared: what it has to say, before it is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from empool import models
from empool.lab.analyse import claims as judging
from empool.lab.analyse import comparable, power, statistics
from empool.lab.analyse.comparable import Record
from empool.lab.analyse.findings import answer, nll_remarks, remarks
from empool.lab.analyse.statistics import Summary
from empool.lab.errors import LabError
from empool.lab.report import claims, curves, gain, planning, plots, rules, svg, table
from empool.lab.report.table import Sheet
from empool.lab.study import paper
from empool.lab.study.run import planned


@dataclass(frozen=True)
class Section:
    """The runs of one network on one data set with one recipe.

    Attributes:
        anchor: a short name, unique in the page.
        records: its runs.
        summary: what they support.
        beside: the paper's table of the same kind of study, if there is one.
        answer: sentences that say what was compared and what the seeds support.
        differing: in what the runs differ that should be the same, in words; empty where they do not.
        missing: runs that were planned and are not there, in words.
        plots: the drawn plots.
        gains: points of the figure of gain against the generalisation gap.
        errors: the table of test errors.
        nll: the table of negative log-likelihoods, if there is something in it.
        power: the table of seeds that each row needs, if something was tested.
        claims: the table of the paper's claims, where it has some of these poolings.
        rules: the table of the testing rules, if the runs were evaluated by them.
        assumptions: what the network assumes where the paper is silent.
    """

    anchor: str
    records: Sequence[Record]
    summary: Summary
    beside: paper.Table | None
    answer: Sequence[str]
    differing: Sequence[str]
    missing: Sequence[str]
    plots: Sequence[svg.Plot]
    gains: Sequence[gain.Point]
    errors: Sheet
    nll: Sheet | None
    power: Sheet | None
    claims: Sheet | None
    rules: Sheet | None
    assumptions: Sequence[str]

    @property
    def title(self) -> str:
        """Network and data set."""
        return _title(self.records)


def _title(records: Sequence[Record]) -> str:
    return f"{records[0]['model']} on {comparable.data_name(records[0])}"


def make(
    index: int,
    runs: Sequence[Record],
    study: Mapping[str, Any],
    baseline: str = statistics.BASELINE,
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
        baseline: spelling of the pooling that the others are compared with.
        learned: their learning curves.
        evaluated: what `empool evaluate` found of them.
        drawn: whether its plots are wanted.

    Raises:
        LabError: if the records contradict each other or are damaged.
    """
    study = {"configuration": {}, **study}
    if precision := study["configuration"].get("precision"):
        runs = [{"precision": precision, **run} for run in runs]  # A record of before it was kept there.
    try:
        summary = statistics.summarise(runs, baseline)
    except ValueError as error:
        raise LabError(f"results.json: {error}") from None
    beside = judging.beside(runs)
    title = _title(runs)
    suffix = f"-{index + 1}" if index else ""
    plan = power.outlook(summary)
    notes = [*remarks(summary, runs, beside), *(planning.notes(summary, plan) if plan else [])]
    caption = f"Test errors of {title}" + (f", and the paper's {beside.name} beside them" if beside else "")
    return Section(
        anchor=f"study{suffix}",
        records=runs,
        summary=summary,
        beside=beside,
        answer=answer(summary, runs),
        differing=[f"These runs differ in what computed them. {line}." for line in _capitalised(runs)],
        missing=_missing(runs, study),
        plots=[_named(plot, suffix) for plot in plots.plots(summary, runs, learned, beside)] if drawn else [],
        gains=gain.points(summary, runs),
        errors=replace(table.errors(caption, summary, beside, plan), notes=notes),
        nll=table.nlls(f"Negative log-likelihood and calibration of {title}", summary, nll_remarks(summary)),
        power=planning.sheet(summary, plan) if plan else None,
        claims=claims.sheet(judging.judge(beside.claims, summary)) if beside else None,
        rules=rules.sheet(evaluated),
        assumptions=_assumptions(runs[0]["model"]),
    )


def _capitalised(runs: Sequence[Record]) -> list[str]:
    lines = comparable.differences(runs)
    return [f"{line[0].upper()}{line[1:]}" for line in lines]


def _named(plot: svg.Plot, suffix: str) -> svg.Plot:
    """Tell a plot apart from the same one of another section."""
    panels = tuple(
        replace(panel, drawing=replace(panel.drawing, name=panel.drawing.name + suffix)) for panel in plot.panels
    )
    return replace(plot, name=plot.name + suffix, panels=panels)


def _trained(record: Record) -> str:
    limit, images = record.get("train_limit"), comparable.images_trained(record)
    if limit is None:
        return f"all {images:,}" if images else "all"
    return f"all {images:,}" if images is not None and images < limit else f"{limit:,}, as many of each class"


def protocol(section: Section) -> list[tuple[str, str]]:
    """Say on what and how the runs were trained, name by name."""
    first = section.records[0]
    images = comparable.images_tested(first)
    return [
        ("Data", comparable.data_name(first)),
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
        ("Schedule of p", str(first.get("p_schedule", "constant"))),
    ]


def distinct(records: Sequence[Record], name: str) -> list[Any]:
    """List the values of a field that is recorded, each once."""
    return list(dict.fromkeys(record[name] for record in records if record.get(name) is not None))


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
