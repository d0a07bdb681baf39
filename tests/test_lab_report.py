"""The report of synthetic studies: what the page says, that it stands alone, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from empool.lab.errors import LabError
from empool.lab.report import power, rules, terminal, write_gain, write_report, write_table
from parsed_page import Page
from synthetic_study import CALIBRATION, OF_THE_PAPERS_KIND, RECORDS, STUDY, record, write_study

RESULTS = "Test errors of cnn on cifar10"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_study(tmp_path_factory.mktemp("study"), RECORDS, **STUDY)
    assert write_report(written) == written / "report.html"
    return written


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the kind that the paper's figures may stand beside."""
    written = write_study(tmp_path_factory.mktemp("papers"), [{**run, **OF_THE_PAPERS_KIND} for run in RECORDS])
    write_report(written)
    return written


def test_the_answer_comes_first(page: Page) -> None:
    answer = page.text.partition("Test errors of")[0]
    assert (
        "5 poolings compared in cnn on cifar10, trained for 4 epochs on 1,000 images, augmented, 3 seeds each."
        in answer
    )
    assert "Lowest mean test error: ensemble:0.3 with 14.30 %; max has 15.30 %." in answer
    assert "Fewer test errors than max: ensemble:0.3." in answer
    assert "More test errors than max: average." in answer
    assert "Not decided by these seeds: ensemble:0.1." in answer
    assert "Did not converge: max-dropout:0.4 (1 of 3)." in answer


def test_the_network_without_pooling_reads_as_what_it_is(tmp_path: Path) -> None:
    runs = [record(pooling, seed, error + seed / 10) for pooling, error in (("max", 36.0), ("none", 43.0))
            for seed in range(3)]  # fmt: skip
    page = Page(write_report(write_study(tmp_path, runs)).read_text(encoding="utf-8"))
    assert "More test errors than max: none (strides)." in page.text
    assert page.table(RESULTS)[2][0] == "none (strides)"


def test_images_are_those_that_were_counted(tmp_path: Path) -> None:
    counted = {"data": "digits", "train_limit": 5000, "train_images": 1442, "test_limit": 9000, "test_images": 355}
    write_report(write_study(tmp_path, [record("max", 0, 15.0, **counted)]))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "trained for 4 epochs on 1,442 images" in text
    assert "Training images all 1,442" in text
    assert "counted on 355 images" in text


def test_only_runs_that_a_command_planned_are_missing(tmp_path: Path) -> None:
    commands = [
        {"command": "first", "poolings": ["max"], "seeds": [0, 1, 2]},
        {"command": "second", "poolings": ["average"], "seeds": [0]},
    ]
    records = [record("max", seed, 15.0) for seed in (0, 1)]
    write_report(write_study(tmp_path, records, poolings=["max", "average"], seeds=[0, 1, 2], commands=commands))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "2 runs missing: max, seed 2; average, seed 0." in text
    assert "first second" in text


def test_seeds_are_those_of_each_row(tmp_path: Path) -> None:
    study = tmp_path / "uneven"
    study.mkdir()
    write_study(study, [record("average", 0, 15.0), *(record("max", seed, 15.0) for seed in range(3))])
    (tmp_path / "page.md").write_text("<!-- study:uneven -->\n<!-- /study:uneven -->\n")
    write_table(study, tmp_path / "page.md")
    assert "1 to 3 seeds each; data" in (tmp_path / "page.md").read_text()
    assert ", 1 to 3 seeds each." in Page(write_report(study).read_text(encoding="utf-8")).text


def test_what_is_not_tested_is_said(tmp_path: Path) -> None:
    records = [record(pooling, 0, error) for pooling, error in (("max", None), ("average", 14.0))]
    write_report(write_study(tmp_path, records))
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Nothing is tested, since max did not always converge." in text


def test_results_stand_beside_the_papers(compared: Path, page: Page) -> None:
    shown = Page((compared / "report.html").read_text(encoding="utf-8"))
    header, *rows = shown.table(RESULTS)
    assert header[-2:] == ["Paper: error %", "Paper: improvement %"]
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(found) == ["max", "average", "ensemble:0.1", "ensemble:0.3", "max-dropout:0.4"]
    minus = "\N{MINUS SIGN}"
    third = found["ensemble:0.3"]
    assert (third["Test error %"], third["Points"], third["Verdict"]) == ("14.30", f"{minus}1.00", "better")
    assert (third["Improvement %"], third["Spread"], third["Runs"]) == ("+6.5", "0.20", "3")
    assert (third["Paper: error %"], third["Paper: improvement %"]) == ("14.28", "+6.36")
    diverged = found["max-dropout:0.4"]  # with the second of three seeds
    assert (diverged["Verdict"], diverged["95 % interval"]) == ("1 of 3 did not converge", "-")
    assert "names neither its recipe nor its number of runs" in shown.text
    assert "binomial standard error of 0.36 points" in shown.text
    # A shorter study has no paper beside it.
    assert not any(name.startswith("Paper") for name in page.table(RESULTS)[0])
    assert "claims" not in page.text


def test_runs_that_were_computed_otherwise_are_named_in_the_head(tmp_path: Path) -> None:
    runs = [record("max", seed, 15.0 + seed, threads=1 + (seed > 1)) for seed in range(3)]
    write_report(write_study(tmp_path, runs))
    words = "These runs differ in what computed them. Threads: 1 (2 runs), 2 (1 run)."
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert text.index(words) < text.index("Test errors of cnn")
    for name in ("table.md", "table.tex"):
        assert words in (tmp_path / name).read_text(encoding="utf-8")


def test_another_baseline(tmp_path: Path) -> None:
    write_report(write_study(tmp_path, RECORDS), baseline="average")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    header, *rows = page.table(RESULTS)
    assert [row[header.index("Verdict")] for row in rows][:2] == ["better", "baseline"]
    assert "Fewer test errors than average: max; ensemble:0.1 and 0.3." in page.text


def test_the_seeds_that_each_row_needs(directory: Path, page: Page, tmp_path: Path) -> None:
    header, *rows = page.table(RESULTS)
    needed = {row[0]: row[header.index("Seeds needed")] for row in rows}
    assert (needed["max"], needed["max-dropout:0.4"]) == ("-", "-")
    assert int(needed["ensemble:0.3"]) < 10 < int(needed["ensemble:0.1"])
    console = Console(width=80, file=io.StringIO())
    console.print(power(directory))
    assert "a true difference of" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(LabError, match="tells no spread"):
        power(write_study(tmp_path, [record("max", 0, 15.0)]))


def test_the_terminal_fits_80_columns(compared: Path) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(terminal(compared))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith(" ensemble:0.3 ") and "better" in line]
    assert line.split()[:3] == ["ensemble:0.3", "14.30", "-1.00"]
    assert "- Average pooling is worse than max: supported" in shown


def gaps(directory: Path, data: str, gap: float, errors: dict[str, float]) -> Path:
    directory.mkdir()
    runs = [
        record(pooling, seed, error + seed / 10, data=data, train_error=error + seed / 10 - gap)
        for pooling, error in errors.items()
        for seed in range(3)
    ]
    return write_study(directory, runs)


def test_gain_against_the_gap_over_several_studies(tmp_path: Path) -> None:
    studies = [
        gaps(tmp_path / "wide", "wide", 12.0, {"max": 15.0, "ensemble:0.3": 13.0, "none": 16.0}),
        gaps(tmp_path / "narrow", "narrow", 1.0, {"max": 15.0, "ensemble:0.3": 15.5}),
    ]
    (tmp_path / "no study").mkdir()
    path = write_gain([tmp_path], tmp_path / "out")
    assert write_gain(studies[::-1], tmp_path / "other").read_bytes() == path.read_bytes()
    assert ElementTree.fromstring(path.read_text(encoding="utf-8")).tag.endswith("svg")
    rows = [line for line in path.with_suffix(".md").read_text(encoding="utf-8").splitlines() if "on" in line]
    (narrow, wide) = [row for row in rows if row.startswith("| ")][-2:]
    assert narrow.startswith("| 1. cnn on narrow, 1,000 images, 4 epochs, augmented, 3 seeds | 1.0 |")
    assert "| ensemble:0.3 | -0.50 |" in narrow
    assert "| 12.0 | ensemble:0.3 | +2.00 |" in wide
    with pytest.raises(LabError, match="no gain to draw"):
        write_gain([gaps(tmp_path / "alone", "alone", 1.0, {"max": 15.0})], tmp_path)


def test_a_page_of_several_settings_shows_when_it_helps(tmp_path: Path) -> None:
    runs = [
        record(pooling, seed, error + seed / 10, data=data, train_error=error - gap)
        for data, gap in (("one", 1.0), ("two", 9.0))
        for pooling, error in (("max", 15.0), ("average", 14.0))
        for seed in range(3)
    ]
    page = Page(write_report(write_study(tmp_path, runs)).read_text(encoding="utf-8"))
    assert len(page.table("When does it help?")) == 3
    assert (tmp_path / "gain.svg").exists()


def test_every_run_is_listed(page: Page) -> None:
    header, *rows = page.table("Every run")
    assert header[:6] == ["Pooling", "Seed", "Test error %", "Train error %", "Test NLL", "Test ECE %"]
    assert len(rows) == len(RECORDS)
    for run, row in zip(RECORDS, rows, strict=True):
        error = "-" if run["test_error"] is None else f"{run['test_error']:.2f}"
        assert row[:3] == [run["pooling"], str(run["seed"]), error]
        assert row[header.index("Converged")] == ("yes" if run["converged"] else "no")


def test_missing_runs_are_named(page: Page) -> None:
    assert "3 runs missing: max-dropout:0.7, seed 0; max-dropout:0.7, seed 1; max-dropout:0.7, seed 2." in page.text


@pytest.mark.parametrize(
    "words",
    [
        "empool compare --seeds 3",  # command
        "cpu (synthetic)",
        "Synthetic 9000",
        "2.13.0",
        "0123456789abcdef",
        "131,000",  # parameters
        "1,000, as many of each class",
        "Learning rate 0.05",
        "Milestones 0.5, 0.75",
        "fingerprint feed",
        "three-stage network of Zeiler and Fergus",  # the first of the network's assumptions
    ],
)
def test_protocol_and_machine_are_stated(page: Page, words: str) -> None:
    assert words in page.text


def test_page_stands_alone(directory: Path, page: Page) -> None:
    for attribute in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
        assert all(value.startswith("#") or value == "data:," for value in page.having(attribute)), attribute
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|url\((?!#)", text)
    # Names of XML namespaces are not fetched.
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_page_can_be_read_by_a_screen_reader(page: Page) -> None:
    identifiers = page.having("id")
    assert [name for name, times in Counter(identifiers).items() if times > 1] == []
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert set(page.having(attribute)) <= set(identifiers)
    assert {value[1:] for value in page.having("href") if value.startswith("#")} <= set(identifiers)
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["table"] == len(page.captions) == 6
    assert all(page.captions)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    drawn = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawn) == 2 + 2 * len({run["pooling"] for run in RECORDS})
    assert all({"role", "aria-labelledby", "aria-describedby"} <= set(attributes) for attributes in drawn)
    assert tags["title"] == tags["desc"] + 1 == len(drawn) + 1  # and the page's
    assert ("html", {"lang": "en"}) in page.elements
    assert {"header", "nav", "main", "section"} <= set(tags)
    # The first thing to be reached leads past the contents.
    reached = next(attributes for tag, attributes in page.elements if tag in ("a", "button", "input"))
    assert reached == {"class": "skip", "href": "#main"}


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_figure_has_a_caption_and_its_numbers(compared: Path) -> None:
    page = Page((compared / "report.html").read_text(encoding="utf-8"))
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["figure"] == tags["figcaption"] == 4
    assert page.table("Bins of the calibration error")
    # What the paper has at other p is drawn, too.
    swept = page.table("Improvement against p")
    assert swept[2][:3] == ["ensemble", "0.1", "+0.4"]
    assert swept[3] == ["ensemble", "0.2", "-", "-", "+1.18"]
    assert swept[4][:3] == ["ensemble", "0.3", "+6.5"]
    assert swept[4][-1] == "+6.36"


def test_the_gap_is_that_of_the_training_images_in_the_testing_phase(page: Page) -> None:
    header, first, *_ = page.table("Errors after the last epoch")
    assert dict(zip(header, first, strict=True)) == {
        "Pooling": "max",
        "Test error %": "15.30",
        "Training error %, inference mode": "7.65",
        "Gap, points": "+7.65",
        "Training error %, as trained on": "7.65",
    }


def test_negative_log_likelihood_is_a_table_of_its_own(page: Page) -> None:
    header, *rows = page.table("Negative log-likelihood and calibration")
    assert header == ["Pooling", "Test NLL", "Nats", "95 % interval", "Verdict", "Test ECE %"]
    assert rows[0] == ["max", "0.5000", "-", "-", "baseline", "2.25"]
    assert page.table("Bins")[1:3] == [
        ["max", "60", "65.00", "60.00", "7,500"],
        ["max", "93", "95.00", "90.00", "22,500"],
    ]


def test_cells_are_sorted_by_what_they_were_rounded_from(page: Page) -> None:
    rows = page.exact[page.place(RESULTS)][1:]
    names = page.table(RESULTS)[0]
    means = [float(row[names.index("Test error %")] or "nan") for row in rows]
    assert means == pytest.approx([15.3, 16.3, 15.2333333, 14.3, 25.5])
    assert [row[names.index("Verdict")] for row in rows] == [None] * 5  # words


def evaluated(
    pooling: str, seed: int, expectation: float, members: float | None, plain: float | None
) -> dict[str, Any]:
    """Make a record of an evaluation, of test errors by rule."""
    errors = {"expectation": expectation, "monte_carlo": members, "plain_max": plain}
    scores = {
        rule: None if error is None else {"error": error, "nll": error / 20, "ece": 2.0}
        for rule, error in errors.items()
    }
    draws = members is not None
    run = {"model": "cnn", "pooling": pooling, "seed": seed, "draws": draws, "samples": 32 if draws else None}
    return {**run, **scores, "calibration": CALIBRATION}


def test_testing_rules_are_compared_on_the_same_networks(tmp_path: Path) -> None:
    records = [
        evaluated("max", 0, 15.0, None, None),
        evaluated("ensemble:0.3", 0, 14.1, 14.0, 15.1),
        evaluated("ensemble:0.3", 1, 14.3, 14.2, 15.5),
        evaluated("ensemble:0.3", 2, 14.5, 14.6, 15.3),
        # All of a difference of 0.1, which rounding makes unequal: no evidence of a spread of zero.
        evaluated("ensemble:0.1", 0, 14.1, 14.2, None),
        evaluated("ensemble:0.1", 1, 14.3, 14.4, None),
    ]
    write_study(tmp_path, RECORDS)
    (tmp_path / "evaluation.json").write_text(json.dumps(records))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    minus = "\N{MINUS SIGN}"
    # Points more than the expectation: -0.1, -0.1, 0.1 and 1.0, 1.2, 0.8; t(2, 97.5 %) = 4.303.
    assert page.table("The same trained networks by each testing rule")[1:] == [
        ["max", "expectation", "1", "15.00", "-", "-", "0.7500", "2.00"],
        ["ensemble:0.3", "expectation", "3", "14.30", "-", "-", "0.7150", "2.00"],
        ["ensemble:0.3", "Monte Carlo", "3", "14.27", f"{minus}0.03", f"[{minus}0.32, +0.25]", "0.7133", "2.00"],
        ["ensemble:0.3", "plain max", "3", "15.30", "+1.00", "[+0.50, +1.50]", "0.7650", "2.00"],
        ["ensemble:0.1", "expectation", "2", "14.20", "-", "-", "0.7100", "2.00"],
        ["ensemble:0.1", "Monte Carlo", "2", "14.30", "+0.10", "-", "0.7150", "2.00"],
    ]
    assert "Monte Carlo: the mean of the probabilities of 32 members" in page.text
    table = (tmp_path / "table.md").read_text()
    assert "| ensemble:0.3 | plain max | 3 | 15.30 | +1.00 | [+0.50, +1.50] | 0.7650 | 2.00 |" in table


def test_the_papers_claims_stand_beside_what_the_runs_say(compared: Path) -> None:
    page = Page((compared / "report.html").read_text(encoding="utf-8"))
    rows = {row[0]: row[1:] for row in page.table("Claims of Zhang and Wu")[1:]}
    worse = rows["Average pooling is worse than max"]
    assert (worse[0], worse[1], worse[3]) == ("supported", "+1.00", "average with max")
    few = rows["Ensemble max-pooling with p of 0.1 or more beats max"]
    assert few[0] == "not tested: no run with ensemble:0.2, ensemble:0.4, ensemble:0.5, ensemble:0.7"
    assert "| Average pooling is worse than max | supported | +1.00 |" in (compared / "table.md").read_text()
    assert "Holm's correction over the 1 claim tested" in page.text


def test_a_study_that_was_not_evaluated_has_no_testing_rules(page: Page, directory: Path) -> None:
    assert "Testing rules" not in page.text
    assert "testing rule" not in (directory / "table.md").read_text()


@pytest.mark.parametrize("damaged", ["[1]", "{}", '[{"pooling": "max", "seed": 0}]'])
def test_a_damaged_evaluation_is_named(tmp_path: Path, damaged: str) -> None:
    write_study(tmp_path, RECORDS)
    (tmp_path / "evaluation.json").write_text(damaged)
    with pytest.raises(LabError, match=r"evaluation\.json holds no evaluations"):
        write_report(tmp_path)


def test_reliability_is_drawn_for_all_poolings_or_for_none(tmp_path: Path) -> None:
    runs = [{**run, "calibration": None} if run["pooling"] == "max" else run for run in RECORDS]
    page = Page(write_report(write_study(tmp_path, runs)).read_text(encoding="utf-8"))
    assert "Reliability" not in page.text
    assert not (tmp_path / "reliability.svg").exists()


def test_a_damaged_calibration_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, [record("max", 0, 15.0, calibration={"count": [1, 2]})])
    with pytest.raises(LabError, match=r"results\.json: a run's calibration is damaged"):
        write_report(tmp_path)


def test_files_beside_the_page(directory: Path) -> None:
    written = {path.name for path in directory.iterdir() if path.is_file()}
    plots = {"error", "improvement-against-p", "learning-curves", "reliability"}
    plots = {f"{name}.svg" for name in plots}
    assert written == {"results.json", "study.json", "report.html", "table.md", "table.tex", *plots}
    for name in plots:
        root = ElementTree.fromstring((directory / name).read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "| ensemble:0.3 | 14.30 | -1.00 |" in (directory / "table.md").read_text(encoding="utf-8")
    assert "\\toprule" in (directory / "table.tex").read_text(encoding="utf-8")


def test_plots_name_what_they_show(directory: Path, compared: Path) -> None:
    error = (directory / "error.svg").read_text(encoding="utf-8")
    assert all(run["pooling"] in error for run in RECORDS)
    assert "1 of 3 did not converge" in error
    against = (compared / "improvement-against-p.svg").read_text(encoding="utf-8")
    assert "Zhang and Wu (2017)" in against
    # A mark a run that converged: the markers are drawn by reference.
    assert error.count("<use") >= sum(run["converged"] for run in RECORDS)


def test_a_plot_rounds_its_coordinates_and_not_its_words(tmp_path: Path) -> None:
    write_study(tmp_path, [record("max", 0, 15.0), record("ordinal:0.625,0.375", 0, 14.0)])
    write_report(tmp_path)
    error = (tmp_path / "error.svg").read_text(encoding="utf-8")
    assert ">ordinal:0.625,0.375</text>" in error
    assert not re.search(r'="[^"]*\d\.\d{3}[^"]*"', error)


def test_the_same_study_gives_the_same_files(directory: Path) -> None:
    before = {path: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    write_report(directory)
    assert {path: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_one_seed_supports_no_claim(tmp_path: Path) -> None:
    write_study(tmp_path, [run for run in RECORDS if run["seed"] == 0])
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "One seed supports no claim about which pooling is better" in page.text
    header, *rows = page.table(RESULTS)
    assert {row[header.index("95 % interval")] for row in rows} == {"-"}
    assert {row[header.index("Verdict")] for row in rows} == {"baseline", "not tested"}


def test_runs_of_different_recipes_are_not_compared(tmp_path: Path) -> None:
    write_study(tmp_path, [record("max", 0, 15.0), record("average", 0, 14.0, epochs=8)])
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [
        table[1][0]
        for table, caption in zip(page.tables, page.captions, strict=True)
        if caption.startswith((RESULTS, "Every run"))
    ] == ["max", "max", "average", "average"]
    assert "There is no run with max" in page.text
    assert [name for name, times in Counter(page.having("id")).items() if times > 1] == []


def test_a_study_where_nothing_converged(tmp_path: Path) -> None:
    write_study(tmp_path, [record("max", 0, None), record("average", 0, None)])
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Did not converge: max (1 of 1), average (1 of 1)." in page.text


def test_results_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RECORDS))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert len(page.table("Every run")) == len(RECORDS) + 1
    assert "Errors after the last epoch" not in page.text
    assert "Command" not in page.text


def test_results_of_before_there_was_an_ece_are_reported(tmp_path: Path) -> None:
    late = ("test_nll", "test_ece", "calibration", "machine")
    old = [{name: value for name, value in run.items() if name not in late} for run in RECORDS]
    write_study(tmp_path, old)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.table("Negative log-likelihood")[1] == ["max", "0.5000", "-", "-", "baseline"]  # once test_loss
    runs = page.table("Every run")
    assert "Test ECE %" not in runs[0]
    assert "Reliability" not in page.text
    assert not (tmp_path / "reliability.svg").exists()


def test_an_ece_that_one_run_lacks_has_no_mean(tmp_path: Path) -> None:
    runs = [record("max", 0, 15.0), {**record("max", 1, 15.0), "test_ece": None}, record("average", 0, 16.0)]
    page = Page(write_report(write_study(tmp_path, runs)).read_text(encoding="utf-8"))
    header, *rows = page.table("Negative log-likelihood")
    assert [row[header.index("Test ECE %")] for row in rows] == ["-", "1.25"]


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    write_study(tmp_path, [record("max", 0, 15.0, data="<script>alert(1)</script>", device="<b>&")])
    text = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "<b>&" in page.text


def test_an_old_page_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(write_study(tmp_path, RECORDS))
    before = page.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert page.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"results\.json is missing: expected the folder of a study"),
        ("[{", r"results\.json is not valid JSON"),
        ("[]", r"results\.json holds no runs"),
        ('{"a": 1}', r"results\.json holds no runs"),
        ("[1]", r"results\.json: run 1 has no valid data"),
        (json.dumps([RECORDS[0], {**RECORDS[1], "seed": "zero"}]), r"results\.json: run 2 has no valid seed"),
        (json.dumps([{k: v for k, v in RECORDS[0].items() if k != "pooling"}]), "run 1 has no valid pooling"),
        (json.dumps([RECORDS[0], RECORDS[0]]), r"results\.json: .* got two of max with seed 0"),
        (json.dumps([{**RECORDS[0], "test_error": None}]), r"results\.json: .* got None for max with seed 0"),
    ],
)
def test_damaged_results_are_named_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(LabError, match=message) as raised:
        write_report(tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_learning_curve_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, RECORDS)
    (tmp_path / "max" / "1" / "metrics.csv").write_text("epoch,train_error\n1,fast\n")
    with pytest.raises(LabError, match=r"max/1/metrics\.csv is damaged"):
        write_report(tmp_path)


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, RECORDS)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(LabError, match=r"study\.json holds no configuration"):
        write_report(tmp_path)


def test_the_table_is_put_into_a_page_between_its_marks(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    directory = write_study(tmp_path / "mine", [record("max", 0, 15.25), record("ensemble:0.3", 0, 14.5)])
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- study:mine -->\nold\n<!-- /study:mine -->\nafter\n")
    write_table(directory, page)
    write_table(directory, page)  # Once more changes nothing.
    lines = page.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["before", "<!-- study:mine -->"], ["<!-- /study:mine -->", "after"])
    assert lines[2].startswith("1 seed each; data: cifar10; training images: 1,000, as many of each class;")
    assert "| ensemble:0.3 |" in page.read_text()
    assert "old" not in lines


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("rules", "run empool evaluate first, or take the mark out"),
        ("claims", "the paper claims nothing of these data, this network or these poolings; take the mark out"),
    ],
)
def test_a_mark_for_which_there_is_no_table_is_refused(tmp_path: Path, kind: str, remedy: str) -> None:
    study = tmp_path / "shapes"
    study.mkdir()
    write_study(study, [record("max", 0, 15.0, data="shapes")])
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {kind}:shapes -->\nold\n<!-- /{kind}:shapes -->\n")
    with pytest.raises(LabError) as raised:
        write_table(study, page)
    assert str(raised.value) == f"{page} has a mark {kind}:shapes, and {study} has no such table: {remedy}"
    assert "old" in page.read_text()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_page_keeps_its_line_endings(tmp_path: Path, ending: str) -> None:
    study = tmp_path / "shapes"
    study.mkdir()
    write_study(study, RECORDS)
    page = tmp_path / "page.md"
    page.write_bytes(ending.join(["before", "<!-- study:shapes -->", "<!-- /study:shapes -->", "after", ""]).encode())
    write_table(study, page)
    lines = page.read_bytes().split(b"\n")
    assert len(lines) > 10
    assert {line.endswith(b"\r") for line in lines[:-1]} == {ending == "\r\n"}


def test_members_are_told_of_each_pooling_where_they_differ() -> None:
    first, second = evaluated("ensemble:0.3", 0, 14.1, 14.0, 15.1), evaluated("stochastic", 0, 14.1, 14.0, None)
    told = "Monte Carlo: the mean of the probabilities of {} members, sampled for every image anew."
    assert told.format("32") in rules.notes([first, second])
    others = [{**second, "samples": 8}, {**second, "seed": 1, "samples": 16}]
    assert told.format("32 (ensemble:0.3), 8 or 16 (stochastic)") in rules.notes([first, *others])


def test_a_page_has_the_tables_that_it_has_marks_for(tmp_path: Path) -> None:
    study = tmp_path / "shapes"
    study.mkdir()
    write_study(study, [{**run, **OF_THE_PAPERS_KIND} for run in RECORDS])
    (study / "evaluation.json").write_text(json.dumps([evaluated("ensemble:0.3", 0, 14.1, 14.0, 15.1)]))
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- rules:shapes -->\n<!-- /rules:shapes -->\n\n<!-- claims:shapes -->\nold\n<!-- /claims:shapes -->\n"
    )
    write_table(study, page)
    found, claims = page.read_text().split("\n\n")
    assert "| ensemble:0.3 | plain max | 1 | 15.10 | +1.00 | - | 0.7550 | 2.00 |" in found
    assert "| Average pooling is worse than max |" in claims
    assert "old" not in claims


def test_a_page_without_marks_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    directory = write_study(tmp_path / "mine", [record("max", 0, 15.25)])
    page = tmp_path / "README.md"
    page.write_text("<!-- study:other -->\n<!-- /study:other -->\n")
    with pytest.raises(LabError, match=r"README\.md: expected a line <!-- study:mine --> and after it a line"):
        write_table(directory, page)
    with pytest.raises(LabError, match=r"no\.md is missing: expected a page"):
        write_table(directory, tmp_path / "no.md")
    assert page.read_text() == "<!-- study:other -->\n<!-- /study:other -->\n"
