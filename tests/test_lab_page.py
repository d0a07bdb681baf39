"""The report page in a browser: sorting, both themes, a narrow screen, paper, and no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from empool.lab.report import write_report
from synthetic_study import RECORDS, STUDY, record, write_study

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (empool[dev])")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("EMPOOL_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: install Debian's package chromium, or say where it is in EMPOOL_CHROMIUM"
)

# Of every text that is seen: its contrast with the nearest ground that is painted behind it, by WCAG 2.2's formula.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(colour).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const words = texts.currentNode.textContent.trim();
    if (!words || !element.checkVisibility() || element.closest("script, style, title, desc, .unseen")) continue;
    const style = getComputedStyle(element);
    const own = light(element.closest("svg") ? style.fill : style.color), behind = light(ground(element));
    const contrast = (Math.max(own, behind) + .05) / (Math.min(own, behind) + .05);
    found.push([contrast, `${element.tagName}: ${words.slice(0, 40)}`]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    diverged = [record("max-dropout:0.7", seed, None) for seed in range(3)]
    return write_report(write_study(tmp_path_factory.mktemp("study"), RECORDS[:1] + diverged + RECORDS[1:], **STUDY))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # A container's root has no sandbox; the page is ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page of its own, and what it asked for and complained of."""

    def __init__(self, browser: Any, report: Path, *, width: int = 1280, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, **context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())

    def column(self, heading: str) -> list[str]:
        """Return the words of a column of the results."""
        table = self.page.locator("section.results table").first
        place = table.locator("thead th").all_inner_texts().index(heading)
        return [row.locator("th, td").nth(place).inner_text() for row in table.locator("tbody tr").all()]

    def heading(self, words: str) -> Any:
        """Return a heading of the results' table."""
        return self.page.locator("section.results table").first.locator("thead th", has_text=words).first


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    one = Opened(browser, report)
    yield one
    one.context.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Opened, report: Path) -> None:
    for place in ("details", "thead button"):
        for element in opened.page.locator(place).all():
            element.evaluate("element => element.click()")
    opened.page.wait_for_load_state("networkidle")
    # The icon is an empty one of the page's own.
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    assert opened.complaints == []


def test_the_keyboard_sorts_by_value_and_what_did_not_converge_stays_last(opened: Opened) -> None:
    keyboard, focused = opened.page.keyboard, "getComputedStyle(document.activeElement)"
    keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the results"
    keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"
    keyboard.press("Tab")  # the frame that the table scrolls in
    assert opened.page.evaluate("document.activeElement.getAttribute('role')") == "region"
    for _ in range(2):
        keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Test error %"
    assert opened.page.evaluate(f"{focused}.outlineStyle") == "solid"
    assert float(opened.page.evaluate(f"{focused}.outlineWidth").removesuffix("px")) >= 2
    heading = opened.heading("Test error")
    assert heading.get_attribute("aria-sort") is None
    keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert opened.column("Test error %") == ["14.30", "15.23", "15.30", "16.30", "25.50", "-"]
    assert opened.page.get_by_role("status").inner_text() == "Sorted by Test error %, ascending"
    keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    assert opened.column("Test error %") == ["25.50", "16.30", "15.30", "15.23", "14.30", "-"]
    minus = "\N{MINUS SIGN}"
    for name, expected in (
        ("Improvement %", [f"{minus}66.7", f"{minus}6.5", "+0.4", "+6.5", "-", "-"]),
        ("95 % interval", [f"[{minus}1", f"[{minus}0", "[+0", "-", "-", "-"]),  # by its lower end
        ("Verdict", [*["1 of 3 did not converge", "3 of 3 did not converge"], *["baseline", "better"]]),
        ("Pooling", ["average", "ensemble:0.1", "ensemble:0.3", "max", "max-dropout:0.4", "max-dropout:0.7"]),
    ):
        opened.heading(name).locator("button").click()
        assert all(map(str.startswith, opened.column(name), expected)), name
    assert heading.get_attribute("aria-sort") is None


def test_without_scripts_and_in_print_all_is_there(browser: Any, report: Path) -> None:
    one = Opened(browser, report, java_script_enabled=False, color_scheme="dark", reduced_motion="reduce")
    assert one.page.locator("thead button").count() == 0
    assert one.page.locator("section.curves svg:visible").count() == 1
    assert len(one.column("Pooling")) == 6
    one.context.close()
    one = Opened(browser, report, color_scheme="dark", reduced_motion="reduce")
    assert one.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    one.page.emulate_media(media="print")
    assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert one.page.locator("nav:visible, summary:visible").count() == 0
    assert one.page.locator("section.results table:visible").count() == 1
    one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_both_themes(browser: Any, report: Path, scheme: str) -> None:
    one = Opened(browser, report, color_scheme=scheme)
    one.page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
    ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    found = one.page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert [words for contrast, words in found if contrast < 4.5] == []
    # Lines and marks take the theme's colours, too: 3:1 is enough for what is no text.
    strokes = one.page.evaluate("""() => [...new Set([...document.querySelectorAll("section.results svg path")]
        .map((path) => getComputedStyle(path).stroke).filter((stroke) => stroke.startsWith("rgb")))]""")
    assert len(strokes) >= 2
    assert not {"rgb(118, 118, 118)", "rgb(47, 127, 193)"} & set(strokes)  # those of the files
    one.context.close()


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_tables_and_wide_figures_scroll_and_the_page_does_not(browser: Any, report: Path, width: int) -> None:
    one = Opened(browser, report, width=width)
    for figure in one.page.locator("section.results figure").all():
        drawn = figure.locator("> svg").bounding_box()["width"]
        assert drawn == pytest.approx(figure.bounding_box()["width"], abs=1)  # They fill their column.
    if width == 390:  # A long figure's caption stays.
        one.page.evaluate("scrollTo(0, document.querySelector('.curves details').getBoundingClientRect().y - 300)")
        assert one.page.locator("section.curves figcaption").bounding_box()["y"] == pytest.approx(0, abs=1)
    one.page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
    assert one.page.evaluate("document.documentElement.scrollWidth") == width
    frame = one.page.locator("section.results .scroll").first
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth") == (width < 1280)
    assert frame.get_attribute("tabindex") == "0"
    frame.evaluate("frame => { frame.scrollLeft = 200 }")
    box = frame.bounding_box()
    assert frame.locator("tbody th").first.bounding_box()["x"] == pytest.approx(box["x"], abs=2)  # It stays in sight.
    caption = one.page.locator("section.results .caption").first.bounding_box()
    assert 0 <= caption["x"] <= caption["x"] + caption["width"] <= width
    one.context.close()
