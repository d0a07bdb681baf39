"""The report page in a browser: sorting, both themes, a narrow screen, paper, and no network."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from empool.lab.report import write_report
from synthetic_study import RECORDS, STUDY, record, write_study

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (empool[dev])")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("EMPOOL_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: install Debian's package chromium, or say where it is in EMPOOL_CHROMIUM"
)

# Of every element with text that is seen: its colour, that of the ground behind it, and its first words.
TEXTS = """() => {
  const painted = (e) => getComputedStyle(e).backgroundColor;
  const ground = (e) => painted(e) === "rgba(0, 0, 0, 0)" && e.parentElement ? ground(e.parentElement) : painted(e);
  const words = (e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
  return [...document.querySelectorAll("body *:not(script, style, .unseen)")]
    .filter((e) => words(e) && e.checkVisibility())
    .map((e) => [getComputedStyle(e)[e.closest("svg") ? "fill" : "color"], ground(e), words(e).slice(0, 40)]);
}"""


def contrast(*colours):
    """Compute the contrast of two colours by WCAG 2.2's formula."""
    lights = []
    for colour in colours:
        shares = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    diverged = [record("max-dropout:0.7", seed, None) for seed in range(3)]
    return write_report(write_study(tmp_path_factory.mktemp("study"), RECORDS[:1] + diverged + RECORDS[1:], **STUDY))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # A container's root has no sandbox; the page is ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, report):
    """Open the report in a context of its own, which is closed with the test."""
    contexts = []

    def opening(width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.goto(report.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()


def column(page, words):
    """Return the words of a column of the results."""
    table = page.locator("section.results table").first
    place = table.locator("thead th").all_inner_texts().index(words)
    return [row.locator("th, td").nth(place).inner_text() for row in table.locator("tbody tr").all()]


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened, report):
    page = opened()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.reload()
    for element in page.locator("details, thead button").all():
        element.evaluate("element => element.click()")
    page.wait_for_load_state("networkidle")
    # The icon is an empty one of the page's own.
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []


def test_the_keyboard_sorts_by_value_and_what_did_not_converge_stays_last(opened):
    page = opened()

    def reached(key, what):
        page.keyboard.press(key)
        return page.evaluate(f"document.activeElement.{what}")

    assert reached("Tab", "textContent") == "Skip to the results"
    assert reached("Enter", "id") == "main"
    assert reached("Tab", "getAttribute('role')") == "region"  # the frame that the table scrolls in
    page.keyboard.press("Tab")
    assert reached("Tab", "textContent") == "Test error %"
    assert "solid 3px" in page.evaluate("getComputedStyle(document.activeElement).outline")
    headings = page.locator("section.results table").first.locator("thead th")
    error = headings.filter(has_text="Test error")
    for key, order, expected in (
        ("Enter", "ascending", ["14.30", "15.23", "15.30", "16.30", "25.50", "-"]),
        ("Space", "descending", ["25.50", "16.30", "15.30", "15.23", "14.30", "-"]),
    ):
        page.keyboard.press(key)
        assert error.get_attribute("aria-sort") == order
        assert column(page, "Test error %") == expected
        assert page.get_by_role("status").inner_text() == f"Sorted by Test error %, {order}"
    for name, expected in (
        ("Improvement %", ["\u221266.7", "\u22126.5", "+0.4", "+6.5", "-", "-"]),
        ("95 % interval", ["[\u22121", "[\u22120", "[+0", "-", "-", "-"]),  # by its lower end
        ("Verdict", [*["1 of 3 did not converge", "3 of 3 did not converge"], *["baseline", "better"]]),
        ("Pooling", ["average", "ensemble:0.1", "ensemble:0.3", "max", "max-dropout:0.4", "max-dropout:0.7"]),
    ):
        headings.filter(has_text=name).first.locator("button").click()
        assert all(map(str.startswith, column(page, name), expected)), name
    assert error.get_attribute("aria-sort") is None


def test_without_scripts_and_in_print_all_is_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("thead button").count() == 0
    assert page.locator("section.curves svg:visible").count() == 1
    assert len(column(page, "Pooling")) == 6
    page = opened(color_scheme="dark", reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav:visible, summary:visible").count() == 0
    assert page.locator("section.results table:visible").count() == 1


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 28)")])
def test_every_text_stands_out_in_both_themes(opened, scheme, ground):
    page = opened(color_scheme=scheme)
    page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    found = page.evaluate(TEXTS)
    assert len(found) > 300
    assert [words for colour, behind, words in found if contrast(colour, behind) < 4.5] == []
    # Lines and marks take the theme's colours, too: 3:1 is enough for what is no text.
    strokes = page.evaluate("""() => [...new Set([...document.querySelectorAll("section.results svg path")]
        .map((path) => getComputedStyle(path).stroke).filter((stroke) => stroke.startsWith("rgb")))]""")
    assert len(strokes) >= 2
    assert not {"rgb(118, 118, 118)", "rgb(47, 127, 193)"} & set(strokes)  # those of the files


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_tables_and_wide_figures_scroll_and_the_page_does_not(opened, width):
    page = opened(width)
    for figure in page.locator("section.results figure").all():
        drawn = figure.locator("> svg").bounding_box()["width"]
        assert drawn == pytest.approx(figure.bounding_box()["width"], abs=1)  # They fill their column.
    if width == 390:  # A long figure's caption stays.
        page.evaluate("scrollTo(0, document.querySelector('.curves details').getBoundingClientRect().y - 250)")
        assert page.locator("section.curves figcaption").bounding_box()["y"] == pytest.approx(0, abs=1)
    page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    frame = page.locator("section.results .scroll").first
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth") == (width < 1280)
    assert frame.get_attribute("tabindex") == "0"
    frame.evaluate("frame => { frame.scrollLeft = 200 }")
    first = frame.locator("tbody th").first.bounding_box()["x"]
    assert first == pytest.approx(frame.bounding_box()["x"], abs=2)  # It stays in sight.
    caption = page.locator("section.results .caption").first.bounding_box()
    assert 0 <= caption["x"] <= caption["x"] + caption["width"] <= width
