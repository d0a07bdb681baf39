"""A page as a test reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "input"}


class Page(HTMLParser):
    """A parsed page: elements, texts of table cells, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.labels: dict[str | None, str] = {}  # captions by their ids
        self.labelling: str | None = None
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if dict(attrs).get("class") == "caption":
            self.labelling = dict(attrs)["id"]
            self.labels[self.labelling] = ""
        if tag == "table":
            self.tables.append([])
            self.captions.append(self.labels[dict(attrs)["aria-labelledby"]])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "p":
            self.labelling = None
        self.words.append(" " if tag in ("dt", "dd", "li", "p", "th", "td") else "")

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open or "svg" in self.open:
            return
        self.words.append(data)
        if self.labelling is not None:
            self.labels[self.labelling] += data.strip()
        if "th" in self.open or "td" in self.open:
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def table(self, caption: str) -> list[list[str]]:
        """Return the rows of the table whose caption begins so."""
        (place,) = (i for i, found in enumerate(self.captions) if found.startswith(caption))
        return self.tables[place]

    def having(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]
