"""A study's folder: locked while it is written to, claimed for one configuration, its records gathered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from empool.lab.errors import FULL, LabError, refusal
from empool.lab.files import remove_unfinished, write_json
from empool.lab.study.run import RunConfig, difference, planned, results


@contextmanager
def opened(directory: Path, lock: str = ".lock", patience: float = 0) -> Iterator[None]:
    """Make a study's folder if it is not there, and keep others out who would lock the same file in it.

    They are waited for so many seconds, or with -1 as long as it takes.

    Raises:
        LabError: if another process writes there, it cannot be written to, or the disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / lock, timeout=patience):
            yield
    except Timeout:
        raise LabError(f"another process is writing to {directory}; wait for it, or choose another --out") from None
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        path = refused.filename or directory
        said = f"cannot write to {path} ({refused.strerror}): make it writable or choose another --out"
        if refused.errno in FULL:
            said = f"no space left to write {path}: make room and start again, and the study goes on where it was"
        raise LabError(said) from error


def gather(directory: Path) -> list[dict[str, Any]]:
    """Write the records of all finished runs to results.json, and return them."""
    records = results(directory)
    write_json(directory / "results.json", records)
    return records


def claim(directory: Path, runs: Sequence[RunConfig], command: str) -> None:
    """Write study.json, or add to it what was typed for runs of one configuration.

    Raises:
        LabError: if the folder holds a study of another configuration or of images that have changed since.
    """
    path = directory / "study.json"
    settings = runs[0].settings()
    assert all(config.settings() == settings for config in runs)
    typed: dict[str, Any] = {
        "command": command,
        "poolings": list(dict.fromkeys(config.pooling for config in runs)),
        "seeds": sorted({config.seed for config in runs}),
    }
    commands, done = [typed], set[tuple[str, int]]()
    if path.exists():
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            before = study.get("commands") or [{name: study[name] for name in typed}]
            other, plans = difference(settings, study["configuration"]), [planned([one]) for one in before]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LabError(f"{path} is damaged ({error!r}): put it back or choose another --out") from None
        if other is not None:
            if other.startswith("fingerprint"):
                other = f"other images than {settings['data']} has now"
            raise LabError(f"{directory} holds a study with {other}: choose another --out, or delete that folder")
        wanted = planned(commands)
        done = {(record["pooling"], record["seed"]) for record in results(directory)}
        if wanted <= done and plans[-1] <= done:
            commands = before  # Nothing is added.
        else:  # Of a command before this one, the finished runs count.
            commands = [one for one, plan in zip(before, plans, strict=True) if plan & done - wanted] + commands
    elif any(directory.glob("*/*/config.json")) or (directory / "results.json").exists():
        raise LabError(f"{directory} holds runs but no study.json: put it back or choose another --out")
    content = {
        "command": commands[-1]["command"],
        "configuration": settings,
        "poolings": list(dict.fromkeys(pooling for one in commands for pooling in one["poolings"])),
        "seeds": sorted({seed for _, seed in done}.union(commands[-1]["seeds"])),
        "commands": commands,
    }
    remove_unfinished(directory)
    write_json(path, content)
