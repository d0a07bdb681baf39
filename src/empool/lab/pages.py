"""Generated text in a page that people write: it stands between two marks and is replaced as a whole."""

from __future__ import annotations

from pathlib import Path

from empool.lab.errors import LabError
from empool.lab.files import write_text


def has(page: Path, mark: str) -> bool:
    """Tell whether a page is there and has a mark."""
    return page.is_file() and f"<!-- {mark} -->\n" in page.read_text(encoding="utf-8")


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between the lines ``<!-- MARK -->`` and ``<!-- /MARK -->`` of a page.

    Raises:
        LabError: if the page is not there or has no such marks.
    """
    if not page.is_file():
        raise LabError(f"{page} is missing: expected a page to put the table in")
    opening, closing = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise LabError(f"{page}: expected a line {opening.strip()} and after it a line {closing}")
    write_text(page, before + opening + text + closing + after)
