"""The report of synthetic studies: what the page says, that it stands alone, and what it refuses."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from rich.console import Console

from empool.lab import cli
from empool.lab.errors import LabError
from empool.lab.report import power, sections, sheets, terminal, write_gain, write_report, write_table
from parsed_page import Page
from synthetic_study import OF_THE_PAPERS_KIND, RECORDS, STUDY, record, write_study

RESULTS = "Test errors of cnn on cifar10"
MINUS = "\N{MINUS SIGN}"
AGAIN = r"study\.json.*: expected .*, got .*; delete it, and the study's command writes it again$"


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def reported(directory, records, baseline="max", **study):
    return read(write_report(write_study(directory, records, **study), baseline))


def rows(page, caption):
    """Give the rows of a table by their first cells, each by the names of its columns."""
    header, *lines = page.table(caption)
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def shown(content):
    console = Console(width=80, file=io.StringIO())
    console.print(content)
    return console.file.getvalue()


def evaluated(pooling, seed, *errors, samples=32):
    """Make a record of an evaluation, of test errors by rule."""
    scores = [None if error is None else {"error": error, "nll": error / 20, "ece": 2.0} for error in errors]
    draws = errors[1] is not None
    run = {"model": "cnn", "pooling": pooling, "seed": seed, "draws": draws, "samples": samples if draws else None}
    return {**run, **dict(zip(("expectation", "monte_carlo", "plain_max"), scores, strict=True))}


EVALUATED = [
    evaluated("max", 0, 15.0, None, None),
    evaluated("ensemble:0.3", 0, 14.1, 14.0, 15.1),
    evaluated("ensemble:0.3", 1, 14.3, 14.2, 15.5),
    evaluated("ensemble:0.3", 2, 14.5, 14.6, 15.3),
    # All of a difference of 0.1, which rounding makes unequal: no evidence of a spread of zero.
    evaluated("ensemble:0.1", 0, 14.1, 14.2, None),
    evaluated("ensemble:0.1", 1, 14.3, 14.4, None),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    written = write_study(tmp_path_factory.mktemp("study"), RECORDS, **STUDY)
    assert write_report(written) == written / "report.html"
    return written


@pytest.fixture(scope="module")
def page(directory):
    return read(directory / "report.html")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A study of the kind that the paper's figures may stand beside, evaluated."""
    written = write_study(tmp_path_factory.mktemp("papers"), [{**run, **OF_THE_PAPERS_KIND} for run in RECORDS])
    (written / "evaluation.json").write_text(json.dumps(EVALUATED))
    return write_report(written).parent


def test_the_answer_comes_first_and_protocol_and_machine_are_stated(page):
    answer, _, rest = page.text.partition("Test errors of")
    assert (
        "5 poolings compared: cnn on cifar10, 1,000 images, 4 epochs, augmented, 3 seeds. Lowest mean test error: "
        "ensemble:0.3 with 14.30 %; max has 15.30 %. Lower test error than max: ensemble:0.3. Higher test error than "
        "max: average. Not decided by these seeds: ensemble:0.1. Did not converge: max-dropout:0.4 (1 of 3)."
    ) in answer
    assert "Missing runs: max-dropout:0.7, seed 0; max-dropout:0.7, seed 1; max-dropout:0.7, seed 2." in answer
    for words in (
        *("empool compare --seeds 3", "cpu (synthetic)", "Synthetic 9000", "2.13.0", "0123456789abcdef", "131,000"),
        *("1,000, the same number of each class", "recipe.learning_rate 0.05", "recipe.milestones 0.5, 0.75"),
        *("fingerprint feed", "three-stage network of Zeiler and Fergus"),  # the first of the network's assumptions
    ):
        assert words in rest


@pytest.mark.parametrize(
    ("records", "study", "words"),
    [
        ([record(pooling, seed, error + seed / 10) for pooling, error in (("max", 36.0), ("none", 43.0))
          for seed in range(3)], {}, ["Higher test error than max: none (strides)."]),
        (RECORDS, {"baseline": "average"}, ["Lower test error than average: max; ensemble:0.1 and 0.3."]),
        # Images are those that were counted.
        ([record("max", 0, 15.0, train_limit=5000, train_images=1442, test_limit=9000, test_images=355)], {},
         ["cnn on cifar10, 1,442 images, 4 epochs", "Training images all 1,442", "Test images 355"]),
        # Only runs that the last command planned are missing.
        (
            [record("max", seed, 15.0) for seed in (0, 1)],
            {"poolings": ["max", "average"], "seeds": [0, 1, 2], "commands": [
                {"command": "first", "poolings": ["max"], "seeds": [0, 1, 2]},
                {"command": "second", "poolings": ["average"], "seeds": [0]},
            ]},
            ["Missing runs: average, seed 0.", "first second"],
        ),
        ([record("max", 0, None), record("average", 0, 14.0)], {},
         ["Nothing is tested, since max did not always converge."]),
        ([record("max", 0, None), record("average", 0, None)], {}, ["not converge: max (1 of 1), average (1 of 1)."]),
        ([run for run in RECORDS if run["seed"] == 0], {},
         ["One seed can't show which pooling is better", "max 15.00 - - baseline",
          "average 16.00 +1.00 - not tested"]),
        ([record("average", 0, 14.0)], {}, ["There is no run with max"]),
        # An expected calibration error that one run lacks has no mean.
        ([record("max", 0, 15.0), record("max", 1, 15.0, test_ece=None), record("average", 0, 16.0)], {},
         ["max 0.5000 - - baseline - average 0.5000 +0.0000 - not tested 1.25"]),
        ([record("max", 0, 15.0, data="<script>alert(1)</script>", device="<b>&")], {}, ["<b>&"]),
    ],
)  # fmt: skip
def test_a_study_says(tmp_path, records, study, words):
    page = reported(tmp_path, records, **study)
    for said in words:
        assert said in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_results_and_claims_stand_beside_the_papers(compared, page):
    papers = read(compared / "report.html")
    found = rows(papers, RESULTS)
    assert list(found) == ["max", "average", "ensemble:0.1", "ensemble:0.3", "max-dropout:0.4"]
    assert [*found["ensemble:0.3"].values()][1:3] == ["14.30", f"{MINUS}1.00"]
    assert [*found["ensemble:0.3"].values()][4:8] == ["better", "+6.5", "0.20", "3"]
    assert [*found["ensemble:0.3"].values()][-2:] == ["14.28", "+6.36"]
    diverged = found["max-dropout:0.4"]  # with the second of three seeds
    assert (diverged["Verdict"], diverged["95 % interval"]) == ("1 of 3 did not converge", "-")
    assert "names neither its recipe nor its number of runs" in papers.text
    claims = rows(papers, "Claims of Zhang and Wu")
    assert list(claims["Average pooling is worse than max"].values())[1:3] == ["supported", "+1.00"]
    few = claims["Ensemble max-pooling with p of 0.1 or more beats max"]
    assert few["Our runs"] == "not tested: no run with ensemble:0.2, ensemble:0.4, ensemble:0.5, ensemble:0.7"
    assert "Holm's correction over the 1 claim tested" in papers.text
    assert "Not all runs were computed alike" not in page.text
    # A shorter study has no paper beside it, and what was not evaluated has no inference rules.
    assert not any(name.startswith("Paper") for name in page.table(RESULTS)[0])
    assert "claims" not in page.text
    assert "Inference rules" not in page.text
    text = shown(terminal(compared))  # fits 80 columns
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert re.search(r"^ max-dropout:0.4 .* 1 of 3 failed  ", text, re.MULTILINE)  # No wider than what is shown.
    longest = shown(terminal(Path(__file__).parents[1] / "results/table1"))
    assert re.search(r"^ ordinal:0.6,0.3,0.1  28.79 +-2.63 .* better +\+8.4 +-$", longest, re.MULTILINE)
    assert re.search(r" Points +95 % interval +Verdict +Gain % +%$", longest, re.MULTILINE)
    assert re.search(r"^ ensemble:0.3 +14.30 +-1.00 .* better", text, re.MULTILINE)
    assert "- Average pooling is worse than max: supported" in text


def test_inference_rules_are_compared_on_the_same_networks(compared):
    papers = read(compared / "report.html")
    # Points more than the expectation: -0.1, -0.1, 0.1 and 1.0, 1.2, 0.8; t(2, 97.5 %) = 4.303.
    assert papers.table("The same trained networks by each inference rule")[1:] == [
        ["max", "expectation", "1", "15.00", "-", "-", "0.7500", "2.00"],
        ["ensemble:0.3", "expectation", "3", "14.30", "-", "-", "0.7150", "2.00"],
        ["ensemble:0.3", "Monte Carlo", "3", "14.27", f"{MINUS}0.03", f"[{MINUS}0.32, +0.25]", "0.7133", "2.00"],
        ["ensemble:0.3", "plain max", "3", "15.30", "+1.00", "[+0.50, +1.50]", "0.7650", "2.00"],
        ["ensemble:0.1", "expectation", "2", "14.20", "-", "-", "0.7100", "2.00"],
        ["ensemble:0.1", "Monte Carlo", "2", "14.30", "+0.10", "-", "0.7150", "2.00"],
    ]
    assert "of 32 sub-networks, sampled for every image anew." in papers.text
    others = [evaluated("stochastic", 0, 14.1, 14.0, None, samples=number) for number in (8, 16)]
    assert any("of 8 or 16 sub-networks," in note for note in sheets.rules(others).notes)


def test_runs_that_were_computed_otherwise_are_named_in_the_head(tmp_path):
    computed = (1, None), (1, 12 * "b"), (2, 12 * "b")
    runs = [record("max", seed, 15.0, threads=how[0], commit=how[1]) for seed, how in enumerate(computed)]
    runs[2]["pooling"] = "ensemble:0.3@learning_rate=0.03"  # Its own line makes room for the other columns.
    text = reported(tmp_path, runs).text
    assert re.search(r"^ ensemble:0\.3 .*\n @learning_rate=0\.03 +$", shown(terminal(tmp_path)), re.MULTILINE)
    threads, commits = "threads: 1 (2 runs), 2 (1 run)", f"commit: {10 * 'b'} (2 runs), not recorded (1 run)"
    words = f"Not all runs were computed alike: {threads}; {commits}."
    assert text.index(words) < text.index("Test errors of cnn")
    assert all(words in (tmp_path / name).read_text(encoding="utf-8") for name in ("table.md", "table.tex"))


def test_the_seeds_that_each_row_needs(directory, page, tmp_path):
    needed = {pooling: row["Seeds needed"] for pooling, row in rows(page, RESULTS).items()}
    assert needed["max"] == needed["max-dropout:0.4"] == "-"
    assert int(needed["ensemble:0.3"]) < 10 < int(needed["ensemble:0.1"])
    assert "decided in 80 % of studies" in " ".join(shown(power(directory)).split())
    with pytest.raises(LabError, match="tells no spread"):
        power(write_study(tmp_path, [record("max", 0, 15.0)]))


def test_gain_against_the_gap_over_several_studies(tmp_path):
    def study(name, gap, **errors):
        runs = [
            record(pooling.replace("emp", "ensemble:0.3"), seed, error + seed / 10, data=name, train_error=error - gap)
            for pooling, error in errors.items()
            for seed in range(3)
        ]
        return write_study(tmp_path / name, runs)

    studies = [study("wide", 11.9, max=15.0, emp=13.0, none=16.0), study("narrow", 0.9, max=15.0, emp=15.5)]
    (tmp_path / "no study").mkdir()
    path = write_gain([tmp_path], tmp_path / "out")
    assert write_gain(studies[::-1], tmp_path / "other").read_bytes() == path.read_bytes()
    assert ElementTree.fromstring(path.read_text(encoding="utf-8")).tag.endswith("svg")
    narrow, wide = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()[-2:]
    setting = "1. cnn on narrow, 1,000 images, 4 epochs, augmented, 3 seeds"
    assert narrow.startswith(f"| {setting} | 1.0 | ensemble:0.3 | -0.50 |")
    assert "| 12.0 | ensemble:0.3 | +2.00 |" in wide
    with pytest.raises(LabError, match="no gain to draw"):
        write_gain([study("alone", 1.0, max=15.0)], tmp_path)


def test_page_stands_alone_and_can_be_read_by_a_screen_reader(directory, page):
    for attribute in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
        assert all(value.startswith("#") or value == "data:," for value in page.having(attribute)), attribute
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|url\((?!#)", text)
    assert not re.search(r"https?://(?!www.w3.org/(2000/svg|1999/xlink))", text)  # Namespaces are not fetched.
    identifiers = page.having("id")
    assert [name for name, times in Counter(identifiers).items() if times > 1] == []
    assert set(page.having("aria-labelledby")) <= set(identifiers)
    assert {value[1:] for value in page.having("href") if value.startswith("#")} <= set(identifiers)
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["table"] == len(page.captions) == 4
    assert all(page.captions)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    drawn = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert tags["figure"] == tags["figcaption"] == len(drawn) == 4
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawn)
    assert ("html", {"lang": "en"}) in page.elements
    assert {"header", "nav", "main", "section"} <= set(tags)
    # The first thing to be reached leads past the contents.
    reached = next(attributes for tag, attributes in page.elements if tag in ("a", "button", "input"))
    assert reached == {"class": "skip", "href": "#main"}
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_run_is_listed_and_the_gap_is_that_of_the_training_images_in_inference_mode(page):
    header, *lines = page.table("Every run")
    assert header[:6] == ["Pooling", "Seed", "Test error %", "Train error %", "Test NLL", "Test ECE %"]
    for run, line in zip(RECORDS, lines, strict=True):
        error = "-" if run["test_error"] is None else f"{run['test_error']:.2f}"
        assert [*line[:3], line[-3]] == [run["pooling"], str(run["seed"]), error, "yes" if run["converged"] else "no"]
    header, first, *_ = page.table("Errors after the last epoch")
    assert header[2:] == ["Training error %, inference mode", "Gap, points", "Training error %, as trained on"]
    assert first == ["max", "15.30", "7.65", "+7.65", "7.65"]


def test_files_beside_the_page(directory, compared):
    before = {path: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    plots = {f"{name}.svg" for name in ("error", "improvement-against-p", "learning-curves", "reliability")}
    assert {p.name for p in before} - plots == {"results.json", "study.json", "report.html", "table.md", "table.tex"}
    for name in plots:
        text = (directory / name).read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r'="[^"]*\d\.\d{3}[^"]*"', text)  # Coordinates are rounded, words are not.
    assert "\\begin{tabular}{lrrrlrrrr}\n\\toprule" in (directory / "table.tex").read_text(encoding="utf-8")
    error = (directory / "error.svg").read_text(encoding="utf-8")
    assert all(run["pooling"] in error for run in RECORDS)
    assert "1 of 3 did not converge" in error
    # A mark a run that converged: the markers are drawn by reference.
    assert error.count("<use") >= sum(run["converged"] for run in RECORDS)
    assert "Zhang and Wu (2017)" in (compared / "improvement-against-p.svg").read_text(encoding="utf-8")
    write_report(directory)  # The same study gives the same files.
    assert {path: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    table = (compared / "table.md").read_text(encoding="utf-8")
    for line in ("14.30 | -1.00", "Average pooling is worse than max | supported | +1.00", "plain max | 3"):
        assert f"{line} |" in table


def test_what_is_drawn_is_what_was_measured(compared, monkeypatch):
    drawing, figures = importlib.import_module("empool.lab.report.plots"), {}
    monkeypatch.setattr(drawing, "drawn", lambda name, title, caption, figure, *_, **__: figures.update({name: figure}))
    made = sections.read(compared, "max")
    drawing.plots(made.summary, made.records, drawing.read_curves(compared, made.records), made.beside)
    ends = 15.3 + np.array(made.summary.row("average").error.interval)
    for name, panel, line, expected in (
        ("error", 0, 2, [ends, [1, 1]]),
        ("error", 0, 3, [[16.0, 16.4, 16.5], [1, 1, 1]]),
        ("improvement-against-p", 0, 1, [[0.1, 0.3], [100 * (1 - 15.14 / 15.25), 100 * (1 - 14.28 / 15.25)]]),
        ("improvement-against-p", 0, 3, [[0.1, 0.3], [100 * (0.2 / 3) / 15.3, 100 / 15.3]]),
        ("learning-curves", 1, -1, [[2, 4], [18.3, 16.3]]),  # thick: the mean over seeds
        ("reliability", 1, -1, [[65, 95], [60, 90]]),
    ):
        np.testing.assert_allclose(figures[name].axes[panel].lines[line].get_data(), expected, err_msg=name)
    np.testing.assert_allclose(figures["reliability"].axes[1].collections[0].get_sizes(), [4 + 15, 4 + 45])


def test_results_of_before_there_was_an_ece_are_reported(tmp_path):
    late = ("test_nll", "test_ece", "calibration", "machine")
    old = [{name: value for name, value in run.items() if name not in late} for run in RECORDS]
    old[-1]["calibration"] = RECORDS[-1]["calibration"]
    (tmp_path / "results.json").write_text(json.dumps(old))  # Results alone are enough.
    page = read(write_report(tmp_path))
    assert page.table("Negative log-likelihood")[1] == ["max", "0.5000", "-", "-", "baseline"]  # once test_loss
    assert len(page.table("Every run")) == len(RECORDS) + 1
    for words in ("ECE %", "Errors after the last epoch", "Command"):
        assert words not in page.text
    assert not (tmp_path / "reliability.svg").exists()  # It is drawn for all runs or for none.


def test_an_old_page_survives_a_failure(tmp_path, monkeypatch):
    page = write_report(write_study(tmp_path, RECORDS[:1]))
    before = page.read_bytes()
    monkeypatch.setattr(Path, "write_text", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(LabError, match=r"^no space left to write .*/error\.svg: make room"):
        write_report(tmp_path)
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(LabError, match=r"^cannot read .*/results\.json \(Permission denied\): make it readable$"):
        write_report(tmp_path)
    assert page.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", None, r"results\.json is missing: expected the folder of a study"),
        ("results.json", "[{", r"results\.json is not valid JSON"),
        ("results.json", '{"a": 1}', r"results\.json holds no runs"),
        ("results.json", "[1]", "run 1: expected an object, got 1; delete it, and the study's command writes it again"),
        ("results.json", [RECORDS[0], {**RECORDS[1], "seed": "zero"}], "run 2: expected seed: Integral, got 'zero'"),
        ("results.json", [{**RECORDS[1], "device": [1]}], r"run 1: expected device: str \| None, got \[1\]"),
        ("results.json", [RECORDS[0], RECORDS[0]], r"results\.json: .* got two of max with seed 0"),
        ("results.json", [record("max", 0, 15.0, calibration={"count": [1, 2]})], "run's calibration is damaged"),
        ("max/1/metrics.csv", "epoch,train_error,test_error\n1,fast,2\n", r"max/1/metrics\.csv is damaged"),
        *(
            ("study.json", {"command": "", "configuration": {}, "poolings": [], "seeds": [], **dict([junk])}, AGAIN)
            for junk in (("commands", "x"), ("commands", [1]), ("configuration", "x"), ("seeds", ["0"]))
        ),
        ("evaluation.json", [{"pooling": "max", "seed": 0}], r"evaluation\.json: record 1: expected draws: bool"),
        ("evaluation.json", [{**EVALUATED[0], "expectation": {}}], "record 1, expectation: expected error: Real"),
    ],
)
def test_what_is_damaged_is_named_in_one_line(tmp_path, name, content, message):
    path = write_study(tmp_path, RECORDS[:2]) / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LabError, match=message) as raised:
        write_report(tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "report.html").exists()


def test_tables_are_put_into_a_page_between_its_marks(tmp_path, capsys):
    ending = "\r\n"  # stays as it is
    runs = [{**run, **OF_THE_PAPERS_KIND} for run in RECORDS if (run["pooling"], run["seed"]) != ("average", 2)]
    study, page = write_study(tmp_path / "mine", runs), tmp_path / "README.md"
    (study / "evaluation.json").write_text(json.dumps(EVALUATED[1:2]))
    marks = [f"<!-- {kind}:mine -->|old|<!-- /{kind}:mine -->" for kind in ("study", "rules", "claims", "nll")]
    page.write_bytes("|".join(["before", *marks, "after", ""]).replace("|", ending).encode())
    assert cli.main(["report", str(study), "--into", str(page)]) == 0
    assert capsys.readouterr().out.endswith(f"; tables in {page}: study, nll, claims, rules\n")
    lines = page.read_bytes().decode().split(ending)
    assert (lines[:2], lines[-3:]) == (["before", "<!-- study:mine -->"], ["<!-- /nll:mine -->", "after", ""])
    for line in (
        "2 to 3 seeds each; data: cifar10; training images: 10,000, the same number of each class;",
        "| ensemble:0.3 | 14.30 \N{PLUS-MINUS SIGN} 0.20 | -1.00 [",
        "| ensemble:0.3 | plain max | 1 | 15.10 | +1.00 | - | 0.7550 | 2.00 |",
        "| Average pooling is worse than max |",
        "| max | 0.5000 | - | - | baseline | 2.25 |",
    ):
        assert any(found.startswith(line) for found in lines), line
    assert not any(line == "old" or "\n" in line or "\r" in line for line in lines)
    before = page.read_bytes()
    write_table(study, page)  # Once more changes nothing.
    assert page.read_bytes() == before


def test_a_page_that_the_study_has_no_table_for_is_not_touched(tmp_path):
    study, page = write_study(tmp_path / "shapes", [record("max", 0, 15.0, data="shapes")]), tmp_path / "page.md"
    with pytest.raises(LabError, match=r"page\.md is missing: expected a page"):
        write_table(study, page)
    for mark, message in (
        ("rules:shapes", "and .*shapes has no such table: it takes an empool evaluate; take the mark out"),
        ("claims:shapes", "has no such table: it takes claims of the paper; take the mark out"),
        ("study:other", r"page\.md: expected a line <!-- study:shapes --> and after it a line"),
    ):
        text = f"<!-- {mark} -->\nold\n<!-- /{mark} -->\n"
        page.write_text(text)
        with pytest.raises(LabError, match=message):
            write_table(study, page)
        assert page.read_text() == text
