"""Generated text in a page that people write: it stands between two marks and is replaced as a whole."""

from __future__ import annotations

import re
from pathlib import Path

from empool.lab.errors import LabError
from empool.lab.files import write_text


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between the lines ``<!-- MARK -->`` and ``<!-- /MARK -->`` of a page."""
    found = marked(page, mark)
    if found is None:
        raise LabError(f"{page}: expected a line <!-- {mark} --> and after it a line <!-- /{mark} -->")
    write_text(page, found[1] + text.replace("\n", found[2]) + found[3])


def marked(page: Path, mark: str) -> re.Match[str] | None:
    """Split a page, if it has a mark, before and after what is marked; its line endings stay as they are."""
    if not page.is_file():
        raise LabError(f"{page} is missing: expected a page to put the table in")
    name, content = re.escape(mark), page.read_bytes().decode()
    return re.fullmatch(f"(.*?<!-- {name} -->(\r?\n)).*?(<!-- /{name} -->.*)", content, re.DOTALL)
