"""What the pages show works: their Python runs, their commands are understood, their links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import warnings
from pathlib import Path

import pytest
import torch
import typer.main

import empool
from empool.lab.cli.commands import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
]
PAGES += sorted(path for folder in ("data", "docs", "results", "examples") for path in (ROOT / folder).rglob("*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
NEEDS_TIMM = "torchvision.models"


def blocks(page: str) -> list[str]:
    """Find a page's Python, in its order."""
    return re.findall(r"^```python\n(.*?)^```", TEXTS[page], flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Find a page's commands, those that start a line."""
    text = re.sub(r"\\\n\s*", "", TEXTS[page])
    found = re.findall(r"^\s*(?:\$ |srun \S+ |srun )?(empool [a-z].*)$", text, flags=re.MULTILINE)
    return [re.split(r"\s+[#>]", line)[0] for line in found]


def run(page: str, some: list[str]) -> dict[str, object]:
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of their own workings, differently in each version.
        for block in some:
            exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", [page for page in TEXTS if any(NEEDS_TIMM not in block for block in blocks(page))])
def test_the_python_of_a_page_runs_from_its_top(page):
    names = run(page, [block for block in blocks(page) if NEEDS_TIMM not in block])
    torch._dynamo.reset()
    if page == "docs/guide.md":
        assert names["probs"].shape == (4, 10)
        assert (names["mutual_information"] >= 0).all()


def test_what_a_page_says_is_printed_is_printed(capsys):
    """An indented block right after Python is its output."""
    page = "docs/ranks.md"
    (shown,) = re.findall(r"^```\n\n((?:    .*\n)+)", TEXTS[page], flags=re.MULTILINE)
    run(page, blocks(page)[:1])
    assert capsys.readouterr().out == re.sub("^    ", "", shown, flags=re.MULTILINE)


def test_the_example_of_other_libraries_networks_runs(timm, capsys):
    (block,) = [block for block in blocks("README.md") if NEEDS_TIMM in block]
    with torch.device("meta"):  # the networks without their weights
        names = run("README.md", [block])
    assert capsys.readouterr().out.count("EnsembleMaxPool2d(p=0.4)") == 5
    pools = [layer for layer in names["resnet"].modules() if isinstance(layer, empool.EnsembleMaxPool2d)]
    assert len(pools) > 4


def test_changelog_and_citation_have_the_version():
    (newest, *_) = re.findall(r"^## (\S+?),", TEXTS["CHANGELOG.md"], flags=re.MULTILINE)
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [newest] == cited == [empool.__version__]


def test_the_readme_is_short():
    text, citations = TEXTS["README.md"].split("## Citing")
    assert len(text.split()) < 740
    assert citations.count("@") == 9


@pytest.mark.parametrize("page", [page for page in TEXTS if commands(page)])
def test_the_commands_of_a_page_are_understood(page):
    group = typer.main.get_command(app)
    for line in commands(page):
        _, name, *arguments = shlex.split(line)
        if "..." not in arguments:
            group.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("page", TEXTS)
def test_the_links_of_a_page_lead_somewhere(page):
    targets = re.findall(r'(?:\]\(|<img src=")([^)#"\s]+)', TEXTS[page])
    missing = [t for t in targets if "://" not in t and not (ROOT / page).parent.joinpath(t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", TEXTS)
def test_the_links_of_a_page_lead_to_headings_that_exist(page):
    """Of a heading "What it is, now" the anchor is #what-it-is-now."""
    missing = []
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", TEXTS[page]):
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        text = TEXTS.get(target.relative_to(ROOT).as_posix(), "")
        for included in re.findall(r"{include} (\S+)", text):
            text += (target.parent / included).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        if anchor not in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]:
            missing.append(f"{file}#{anchor}")
    assert missing == []


def test_the_architecture_names_every_file_of_the_core_and_folder_of_the_lab():
    page = TEXTS["docs/architecture.md"]
    core = {path.name for path in (ROOT / "src/empool").glob("*.py")} - {"__init__.py", "_version.py"}
    assert sorted(name for name in core if name not in page) == []
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\nlayers = [\n")[2].partition("\n]")[0]
    assert re.sub(r'[",]', "", contract) in page
    section = page[page.index("## The lab") :]
    folders = {path.parent.name for path in (ROOT / "src/empool/lab").glob("*/__init__.py")}
    assert sorted(name for name in folders if f"{name}/" not in section) == []


def test_costs_are_the_measured_ranges():
    """The rows of docs/cost.md's table are so many columns each of the measured one; README has the first."""
    table = [
        row.rstrip(" |").split(" | ")
        for row in TEXTS["results/cpu-kernels/targets.md"].splitlines()
        if re.search("[23]/2,", row)
    ]
    shown = re.findall(
        r"^\| (?:training|inference|backward).*?(\| \d.*) \|$", TEXTS["docs/cost.md"], flags=re.MULTILINE
    )
    column, ranges = 2, []
    for width in (1, 4, 1, 1, 4, 1):
        for layout in ("contiguous", "channels last"):
            numbers = [float(n) for row in table if f" {layout}," in row[0] for n in row[column : column + width]]
            ranges.append(f"{min(numbers):.2f} to {max(numbers):.2f}")
        column += width
    assert shown[:6] == [f"| {one} | {other}" for one, other in zip(ranges[::2], ranges[1::2], strict=True)]
    said = f"takes {ranges[0]} of `nn.MaxPool2d`'s time on a CPU (channels-last {ranges[1]})"
    assert said in " ".join(TEXTS["README.md"].split())


def test_tables_and_figures_are_what_their_commands_make():
    """If not: `python docs/readme.py`, `python docs/figures.py`."""
    made = runpy.run_path(str(ROOT / "docs/readme.py"))
    results = [made["result"](study, pooling) for study, (_, pooling) in made["STUDIES"].items()]
    for page in ("README.md", "docs/results.md"):
        assert made["table"](results) in TEXTS[page]
    drawn = runpy.run_path(str(ROOT / "docs/figures.py"))["ranks"]()
    assert drawn == (ROOT / "docs/images/ranks.svg").read_text(encoding="utf-8")
    assert made["figure"](results) == (ROOT / "docs/images/helps.svg").read_text(encoding="utf-8")
