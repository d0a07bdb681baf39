"""Files that are whole or absent, whenever a process is killed or the power fails."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empool.lab.errors import LabError, refusal

_UNFINISHED = re.compile(r"\..+\.(json|csv|ckpt|html|md|tex|svg)\.\d+\.tmp")  # names that `replacing` makes


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` once it is on the disk; an error has the name of `path`.

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
        raise OSError(refused.errno, refused.strerror, str(path)) from error
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


def read_json(path: Path) -> Any:
    """Read a JSON file, or say that it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{path} is not valid JSON ({error}); delete it to start over") from None


def read_object(path: Path, *fields: str) -> dict[str, Any]:
    """Read a JSON object that has these fields."""
    content = read_json(path)
    if isinstance(content, dict) and content.keys() >= {*fields}:
        return content
    wanted = f" with {', '.join(fields)}" if fields else ""
    raise LabError(f"{path} is not what empool writes: expected an object{wanted}; delete it to start over")
