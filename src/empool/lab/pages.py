"""Generated text in a page that people write: it stands between two marks and is replaced as a whole."""

from __future__ import annotations

import re
from pathlib import Path

from empool.lab.errors import LabError
from empool.lab.files import write_text


def has(page: Path, mark: str) -> bool:
    """Tell whether a page is there and has a mark."""
    return page.is_file() and _opening(mark).search(_read(page)) is not None


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between the lines ``<!-- MARK -->`` and ``<!-- /MARK -->`` of a page."""
    if not page.is_file():
        raise LabError(f"{page} is missing: expected a page to put the table in")
    content, closing = _read(page), f"<!-- /{mark} -->"
    opening = _opening(mark).search(content)
    end = content.find(closing, opening.end()) if opening else -1
    if not opening or end < 0:
        raise LabError(f"{page}: expected a line <!-- {mark} --> and after it a line {closing}")
    write_text(page, content[: opening.end()] + text.replace("\n", opening[1]) + content[end:])


def _read(page: Path) -> str:
    with page.open(encoding="utf-8", newline="") as file:  # Its line endings stay as they are.
        return file.read()


def _opening(mark: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {re.escape(mark)} -->(\r?\n)")
