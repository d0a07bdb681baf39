"""Files that are whole or absent, whenever a process is killed or the power fails; text put into pages."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from empool.lab.errors import LabError, refusal, unwritable

_UNFINISHED = re.compile(r"\..+\.(json|csv|ckpt|html|md|tex|svg)\.\d+\.tmp")  # names that `replacing` makes
REWRITE = "delete it, and the study's command writes it again"


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` once it is on the disk; LabError says what is refused.

    What it replaces becomes `previous`, in the same folder, if that is given; a process killed between the two steps
    leaves `previous` and no `path`.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        _sync(unfinished)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(unfinished, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        refused = refusal(error)
        if refused is None and isinstance(error, OSError) and error.filename in (unfinished, str(unfinished)):
            refused = error
        if refused is None:
            raise
        raise unwritable(refused, path) from error
    finally:
        if unfinished.exists():  # Else a read-only file system refuses, and with this name.
            unfinished.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what `replacing` left in the folder of a study or a run, and two levels below, when its process died."""
    for unfinished in (*folder.glob(".*.tmp"), *folder.glob("*/*/.*.tmp")):
        if _UNFINISHED.fullmatch(unfinished.name):
            unfinished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows opens no folders.
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # Some network file systems sync files only.
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, the same bytes on every system."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def put_marked(page: Path, mark: str, text: str) -> None:
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


def read_json(path: Path, remedy: str = "delete it to start over") -> Any:
    """Read a JSON file, or say that it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise LabError(f"cannot read {path} ({error.strerror}): make it readable") from None
    except ValueError as error:
        raise LabError(f"{path} is not valid JSON ({error}); {remedy}") from None


def read_object(path: Path, **kinds: Any) -> dict[str, Any]:
    """Read a JSON object that has these fields, each of its kind, in the folder of a study."""
    content: dict[str, Any] = read_json(path, REWRITE)
    checked(content, str(path), kinds, REWRITE)
    return content


def checked(content: Any, where: str, kinds: Mapping[str, Any], remedy: str = "") -> None:
    """Refuse what is no object with these fields, each of its kind; one that may be None may be missing, too."""
    then = f"; {remedy}" if remedy else ""
    if not isinstance(content, Mapping):
        raise LabError(f"{where}: expected an object, got {content!r:.60}{then}")
    for name, kind in kinds.items():
        if not _is_a(content.get(name), kind):
            wanted = " or ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else str(kind)
            wanted = re.sub(r"\b[a-z]+\.|<class '|'>", "", wanted)
            raise LabError(f"{where}: expected {name}: {wanted}, got {content.get(name)!r:.60}{then}")


def _is_a(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a kind; a whole number is a float, too, and True is no number."""
    of, items = get_origin(kind), get_args(kind)
    if of in (Union, UnionType):
        return any(_is_a(value, each) for each in items)
    if of is Literal:
        return value in items
    if of is not None:
        return isinstance(value, of) and (of is not list or all(_is_a(item, items[0]) for item in value))
    return isinstance(value, Real if kind is float else kind) and (kind is bool or not isinstance(value, bool))
